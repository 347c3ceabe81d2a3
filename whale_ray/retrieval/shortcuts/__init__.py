"""Shortcut audit: recall on the animal alone and on the background alone."""
