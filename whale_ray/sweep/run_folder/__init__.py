"""The files of a run: trial records, leaderboard, checkpoints, lock and heartbeats.

It reads and writes all files of a run without Ray.
"""
