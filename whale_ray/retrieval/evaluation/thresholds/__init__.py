"""Thresholds between known and new that maximize MAP@5."""
