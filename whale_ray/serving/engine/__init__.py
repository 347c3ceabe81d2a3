"""From image bytes to answers: decoder processes, micro-batching, embedding and search.

It does not depend on HTTP.
"""
