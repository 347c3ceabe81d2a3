"""The bundle and the only inference path: photographs in, ranked individuals out.

Service, Kaggle submission and command line all use `predictor`.
"""
