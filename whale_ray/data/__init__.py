"""Photographs and their labels: reading the table, decoding, auditing, splitting and batching.

Every other package takes its images from here; it does not depend on encoders, sweeps or services.
"""
