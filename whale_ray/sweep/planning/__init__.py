"""Plan of a sweep: data set, trial settings, Optuna study, early stopping, dry run and time estimate.

It also decides which earlier trials can be reused.
"""
