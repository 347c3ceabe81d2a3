"""The fixtures of the service's tests; what they are made of is in `services`."""

from services import bundle, client, on_ray, plain

__all__ = ["bundle", "client", "on_ray", "plain"]
