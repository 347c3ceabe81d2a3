"""Runners of trials: Ray Tune on a cluster, or one trial after another in this process.

Both take trials from the queue and record the same events.
"""
