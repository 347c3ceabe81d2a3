"""From vectors to ranked individuals and their scores; knows nothing of training, sweeps or services."""
