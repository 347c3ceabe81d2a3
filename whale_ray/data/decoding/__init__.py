"""Decoding: recognition of image formats, TIFF pages, pixel values, orientation and decoder warnings."""
