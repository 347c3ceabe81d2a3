"""Hints about common mistakes in a data set: file names that nearly exist, and other labels of unknown animals.

The findings of the audit show them.
"""
