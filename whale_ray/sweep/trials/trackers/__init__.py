"""Experiment trackers: event files for TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations
