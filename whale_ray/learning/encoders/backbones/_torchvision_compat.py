"""Import torchvision, also beside a CPU build of torch, and without PyTorch's compiler.

The published torchvision wheels are compiled for CUDA torch. Beside a CPU build of torch their extension does not load,
and `import torchvision` fails on operators that this project does not call (`nms`). Declaring them is enough for
models, transforms and the image processors of transformers. If the extension loads, nothing is declared.

torchvision imports `torch._dynamo` for one function that its operator RoI align calls. This project calls no RoI align,
and the compiler takes as long to import as torch itself, in each replica and each process of a trial.

Import this module before the first import of torchvision or transformers, in every process.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

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


def _is_compile_supported(device: Any) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device))


@contextlib.contextmanager
def _deferred_compiler() -> Iterator[None]:
    """Replace `torch._dynamo` by a stand-in for the length of the block, which imports it when it is called."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (package, utils)}
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with contextlib.suppress(ImportError), _deferred_compiler():
    import torchvision  # noqa: F401
