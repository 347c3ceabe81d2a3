"""Corrections that a person made to the labels, applied to the training table.

`apply_review` writes a new table beside the old one and never changes an existing file.
"""
