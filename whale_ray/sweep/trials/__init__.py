"""One trial: train an encoder, embed the photographs, score every retrieval setting, write the record.

`worker` runs it, also inside Ray Tune; the other modules need no Ray.
"""
