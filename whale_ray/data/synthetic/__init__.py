"""Drawn humpback flukes in the layout of the Kaggle competition, with known truth.

`dataset` plans and writes a data set, `population` decides who is photographed when, `fluke` and `scene` draw.
"""
