"""Statistics over finished trials: paired contrasts, axis importance and fANOVA.

It reads run folders and draws nothing.
"""
