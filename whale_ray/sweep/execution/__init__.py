"""Runs a sweep on Ray Tune: preparation, trial queue, console output and bundle export.

`driver` is the entry point.
"""
