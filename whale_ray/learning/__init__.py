"""Encoders, losses and the training loop on PyTorch.

It works on tensors and integer labels and knows neither photographs on disk nor sweeps.
"""
