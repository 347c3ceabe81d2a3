"""Likely label errors found from embeddings alone.

It also proposes pseudo-labels for unknown photographs.
"""
