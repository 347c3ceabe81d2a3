"""Encoders, losses and their training; knows tensors and names, neither tables of photographs nor sweeps.

Importing this package imports neither torch nor any model library.
"""
