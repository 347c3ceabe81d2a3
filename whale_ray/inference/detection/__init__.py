"""Detection of animals in photographs with a model such as MegaDetector, in ONNX."""
