"""Approximate search in large galleries, by inverted lists."""
