"""Transfer of bundles to and from the Hugging Face Hub and object storage."""

from __future__ import annotations
