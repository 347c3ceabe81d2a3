"""The report of a run as one self-contained HTML page.

It reads the run folder and can be written at any moment of a sweep.
"""
