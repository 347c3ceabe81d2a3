"""Encoders: networks that map an image to one L2-normalised embedding.

`backbone_families` lists the families (tiny, torchvision, Hugging Face, timm); `registry` builds an encoder by name.
"""
