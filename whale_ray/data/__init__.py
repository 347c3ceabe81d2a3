"""Photographs and their labels: reading the table, decoding, auditing, splitting and batching.

Every other package takes its images from here; nothing in it knows encoders, sweeps or services.
"""
