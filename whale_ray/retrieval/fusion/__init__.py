"""Fusion of embeddings and local evidence: candidates, their features and the probability that each is right."""
