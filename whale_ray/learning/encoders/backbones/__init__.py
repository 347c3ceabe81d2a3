"""Backbones: networks without their classifier, built by name from torchvision, the Hugging Face Hub or a folder."""
