"""Dates, encounters and twins: reading dates, grouping photographs that belong together, splitting by time."""
