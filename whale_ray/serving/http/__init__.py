"""The FastAPI application: routes, uploads, load shedding, responses and OpenAPI.

It runs with or without Ray Serve.
"""
