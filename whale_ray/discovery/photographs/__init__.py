"""Photographs of a discovery and their embeddings."""
