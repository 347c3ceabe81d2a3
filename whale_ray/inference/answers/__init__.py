"""Answers of a bundle: probabilities and decisions."""
