"""Limits of the caches on disk."""
