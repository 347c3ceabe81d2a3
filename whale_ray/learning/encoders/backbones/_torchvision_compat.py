"""Make `import torchvision` work beside a CPU build of torch.

The published torchvision wheels are compiled for CUDA torch. Beside a CPU build of torch their extension does not load,
and `import torchvision` fails on operators that this project does not call (`nms`). Declaring them is enough for
models, transforms and the image processors of transformers. If the extension loads, this module does nothing.

Import this module before the first import of torchvision or transformers, in every process.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import torch


def _extension() -> Path | None:
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else ()
    found = (Path(folder) / f"_C{suffix}" for folder in folders for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in found if path.exists()), None)


def _loads(extension: Path | None) -> bool:
    if extension is None:
        return False
    try:
        torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


# Kept alive for the life of the process: the operators vanish with it.
LIBRARY = None if _loads(_extension()) else _declare_operators()
