"""From embeddings to ranked individuals and their scores.

It knows nothing of training, sweeps or services.
"""
