"""Encoders, losses and the training loop on PyTorch.

It works on tensors and integer labels and depends neither on photographs on disk nor on sweeps.
"""
