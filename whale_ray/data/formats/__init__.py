"""Formats of data sets: a reader for each, and the rows that they all return."""
