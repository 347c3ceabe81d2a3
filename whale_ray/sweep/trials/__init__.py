"""One trial: train an encoder, embed the photographs, score every retrieval setting, write the record.

`ray_worker` runs it inside Ray Tune; the other modules need no Ray.
"""
