"""Fixtures of the service's tests, made of the helpers in `services` and `databases`."""

from databases import postgresql, url
from services import bundle, client, on_ray, plain, ray_service

__all__ = ["bundle", "client", "on_ray", "plain", "postgresql", "ray_service", "url"]
