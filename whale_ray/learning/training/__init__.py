"""The training loop: a generator that yields after each epoch; optimiser, mixed precision, EMA and resumable state.

It knows neither Ray nor retrieval metrics.
"""
