"""Plots of the report as SVG text that takes its colors from the page.

`svg` draws, `curves` and `objective_plots` choose what to draw of the trials.
"""
