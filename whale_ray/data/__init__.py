"""Photographs and their labels: read, drawn, decoded, audited, split, batched."""
