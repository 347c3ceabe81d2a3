"""The training loop: a generator that yields after each epoch; optimiser, mixed precision, EMA and resumable state.

It depends neither on Ray nor on retrieval metrics.
"""
