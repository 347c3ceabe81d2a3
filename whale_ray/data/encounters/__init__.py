"""Dates and encounters: reading dates, grouping photographs, splitting by time."""
