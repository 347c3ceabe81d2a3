"""One trial: train an encoder, embed the photographs, score every retrieval setting, write the record.

`worker` runs it, also inside Ray Tune, and `distributed` with several workers; the other modules need no Ray.
"""
