"""Scores of rankings: recall@K, MAP@5, open-set metrics, calibration and bootstrap intervals.

`evaluate` scores every retrieval setting of a trial with cross-fitting.
"""
