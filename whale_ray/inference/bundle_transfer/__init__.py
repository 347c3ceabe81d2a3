"""Transfer of bundles and photographs from and to the Hugging Face Hub and object storage."""

from __future__ import annotations
