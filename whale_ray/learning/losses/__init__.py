"""Metric-learning losses, wrapped from pytorch-metric-learning or written here.

`registry` maps each name to its builder and its parameters.
"""
