"""Mistakes in a data set: faults of rows, file names that nearly exist, and other labels of unknown animals.

Faults end the reading; the findings of the audit show the other hints.
"""
