"""Learned keypoints: networks in ONNX files, such as ALIKED, DISK or SuperPoint, and their registry."""
