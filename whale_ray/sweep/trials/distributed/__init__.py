"""Trials that several workers train together: the run, and the channel to the trial's own process."""
