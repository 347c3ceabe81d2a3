"""The Ray cluster of a sweep: connection, places for trials, checks and losses of nodes.

`ray_cluster` connects; the runners ask the other modules where the next trial runs.
"""
