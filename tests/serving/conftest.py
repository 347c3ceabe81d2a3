"""Fixtures of the service's tests, made of the helpers in `services`, `served_models` and `databases`."""

from databases import postgresql, url
from served_models import make
from services import bundle, client, on_ray, plain, ray_service

__all__ = ["bundle", "client", "make", "on_ray", "plain", "postgresql", "ray_service", "url"]
