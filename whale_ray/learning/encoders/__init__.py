"""Encoders: networks that map an image to one L2-normalised embedding.

`registry` lists the families (torchvision, Hugging Face, tiny) and builds an encoder by name.
"""
