"""Ray Serve deployments of the service: ingress, encoder replicas, shadow, rollout and launcher.

Only this package imports ray.serve.
"""
