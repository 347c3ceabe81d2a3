"""The files of a run: trial records, leaderboard, checkpoints, lock and heartbeats.

Everything a run says can be read from here without Ray.
"""
