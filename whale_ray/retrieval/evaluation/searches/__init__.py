"""Searches of an evaluation: what each retrieval setting gives each query."""
