"""Turns image bytes into embeddings and answers: decoder processes, micro-batching and search.

It knows no HTTP.
"""
