"""Tables of the report as frozen dataclasses: headline, leaderboard, trust, importance and retrieval settings.

They read trial records and compute no new statistics.
"""
