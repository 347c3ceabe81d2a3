"""Loading of pretrained weights from files, with strict name and shape checks.

Only tensors are read: safetensors, or torch files under `weights_only`. No code in a file is run.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whale_ray.errors import EncoderError, first_line

_SHOWN = 4


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or torch (.pth, .pt, .bin) file by name, on the CPU.

    A file that wraps them as `state_dict` or `model`, or under `module.` as data-parallel training leaves
    them, is unwrapped.

    Raises:
        EncoderError: no such file, or a file that holds anything but tensors.
    """
    if not path.is_file():
        raise EncoderError(f"model.weights must be pretrained, random or a file of weights, but there is no {path}")
    tensors = _unwrap(_read(path))
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise EncoderError(f"a file of weights must map names to tensors, but {path} does not. {_REMEDY}")
    shared = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if shared else name: value for name, value in tensors.items()}


_REMEDY = "Save it with torch.save(model.state_dict(), path) or safetensors.torch.save_file."


def _read(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise EncoderError(
            f"the weights in {path} cannot be read as tensors: {first_line(error)}. {_REMEDY}"
        ) from error


def _unwrap(content: Any) -> dict[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return dict(content[key])
    return dict(content) if isinstance(content, dict) else {}


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, target: str) -> None:
    """Copy tensors into a module; every name and shape must agree.

    Args:
        module: The module that receives the weights.
        tensors: State dict.
        source: Name of the file, for messages.
        target: Name of the encoder, for messages.

    Raises:
        EncoderError: With the tensors that are missing, unexpected or of another shape.
    """
    own = module.state_dict()
    if faults := _differences(own, tensors):
        raise EncoderError(
            f"the weights of {source} do not fit {target}: {'; '.join(faults)}. "
            "Choose the encoder that they were trained for, or other weights."
        )
    own.update(tensors)  # keeps the version marks of the module, which MNASNet asks for
    module.load_state_dict(own)


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    reshaped = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    groups = {
        "missing": [name for name in wanted if name not in given],
        "not known": [name for name in given if name not in wanted],
        "of another shape": reshaped,
    }
    return [f"{len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
