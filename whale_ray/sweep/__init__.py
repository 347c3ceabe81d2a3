"""From one YAML file to trials, a leaderboard and the best bundle.

Importing this package loads neither torch nor Ray.
"""
