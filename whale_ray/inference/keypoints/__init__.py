"""Keypoints of a bundle: its files, their check by golden images, and the matching of queries with the gallery."""
