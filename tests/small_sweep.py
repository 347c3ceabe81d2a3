"""The sweep of most tests: two trials of `tiny` on a few drawn photographs."""

SWEEP = """
name: little
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: [arcface, proxy_anchor]}
train: {epochs: 2, batch_size: 16, learning_rate: 3.0e-3}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5], flip: [none, average]}
search: {strategy: grid}
bundle: {examples: 3, runtime: torch}
"""
