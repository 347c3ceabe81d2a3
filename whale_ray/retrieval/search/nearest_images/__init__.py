"""Candidates of a search: gallery images that may be the nearest, by matrix products or by inverted lists."""
