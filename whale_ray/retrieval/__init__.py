"""From embeddings to ranked individuals and their scores.

It does not depend on training, sweeps or services.
"""
