"""Encounters: several photographs of one animal, answered together, with probabilities of their own."""
