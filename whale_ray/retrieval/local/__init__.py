"""Keypoint matching of photographs: local features, LNBNN scores and geometric verification.

HotSpotter: Crall et al., "HotSpotter - Patterned species instance recognition", WACV 2013.
"""
