"""LightGlue: the network that matches the keypoints of two photographs, and its export to ONNX.

Lindenberger et al., "LightGlue: Local Feature Matching at Light Speed", ICCV 2023. All layers are run: the networks are
small, and the early exits of the paper do not fit into an ONNX file. The names of weights are those of the published
files (github.com/cvg/LightGlue).
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whale_ray.errors import InputError, first_line

LEAST_CONFIDENCE = 0.1
"""Smallest confidence of a match, as in the published code."""
_HEADS = 4
_MODULE = re.compile(r"^(self|cross)_attn\.(\d+)\.")  # of the published files
_LAYER = re.compile(r"^transformers\.(\d+)\.")


class LightGlue(nn.Module):
    """Matches the keypoints of two photographs.

    Args:
        size: Number D of values of a descriptor.
        width: Number of values of a keypoint inside the network.
        layers: Number of layers.

    Attributes:
        size: As given.
    """

    def __init__(self, *, size: int, width: int = 256, layers: int = 9) -> None:
        super().__init__()
        self.size = size
        self.input_proj = nn.Linear(size, width) if size != width else nn.Identity()
        self.posenc = _PositionalEncoding(width // _HEADS)
        self.transformers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.log_assignment = nn.ModuleList(_Assignment(width) for _ in range(layers))

    def forward(self, kpts0: Tensor, kpts1: Tensor, desc0: Tensor, desc1: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matches, pairs (K, 2), and their confidences (K,).

        Args:
            kpts0: x and y from -1 to 1, shape (1, M, 2).
            kpts1: The same of the other photograph, shape (1, N, 2).
            desc0: Descriptors, unit vectors, shape (1, M, D).
            desc1: The same of the other photograph, shape (1, N, D).
        """
        first, second = self.input_proj(desc0[0]), self.input_proj(desc1[0])
        places, other_places = self.posenc(kpts0[0]), self.posenc(kpts1[0])
        for layer in self.transformers:
            first, second = layer(first, second, places, other_places)
        scores = self.log_assignment[-1](first, second)
        best, nearest = scores.max(dim=1)
        mutual = scores.max(dim=0).indices[nearest] == torch.arange(nearest.shape[0])
        confidences = best.exp()
        kept = torch.nonzero(mutual & (confidences > LEAST_CONFIDENCE))[:, 0]
        return torch.stack([kept, nearest[kept]], dim=1), confidences[kept]


class _PositionalEncoding(nn.Module):
    """Rotary encoding of places by learned frequencies."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.Wr = nn.Linear(2, size // 2, bias=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines for each value of a head, (M, size)."""
        angles = self.Wr(points)
        count = angles.shape[1]
        cosines, sines = (
            values.reshape(-1, count, 1).expand(-1, count, 2).reshape(-1, 2 * count)
            for values in (angles.cos(), angles.sin())
        )
        return cosines, sines


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = _SelfAttention(width), _CrossAttention(width)

    def forward(
        self, first: Tensor, second: Tensor, places: tuple[Tensor, Tensor], other_places: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the values of both photographs' keypoints after one layer, (M, width) and (N, width)."""
        first, second = self.self_attn(first, *places), self.self_attn(second, *other_places)
        return self.cross_attn(first, second), self.cross_attn(second, first)


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.Wqkv, self.out_proj, self.ffn = nn.Linear(width, 3 * width), nn.Linear(width, width), _feedforward(width)

    def forward(self, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Return the values (M, width) after attention within the photograph, by rotary places."""
        width = values.shape[1]
        heads = self.Wqkv(values).reshape(-1, _HEADS, width // _HEADS, 3).permute(3, 1, 0, 2)
        queries, keys = (_rotate(part, cosines, sines) for part in (heads[0], heads[1]))
        message = self.out_proj(_attend(queries, keys, heads[2]))
        changes: Tensor = self.ffn(torch.cat([values, message], dim=1))
        return values + changes


class _CrossAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qk, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(3))
        self.ffn = _feedforward(width)

    def forward(self, values: Tensor, others: Tensor) -> Tensor:
        """Return the values (M, width) after attention to those of the other photograph, (N, width)."""
        queries, keys, seen = (_split(one) for one in (self.to_qk(values), self.to_qk(others), self.to_v(others)))
        message = self.to_out(_attend(queries, keys, seen))
        changes: Tensor = self.ffn(torch.cat([values, message], dim=1))
        return values + changes


class _Assignment(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.matchability, self.final_proj = nn.Linear(width, 1), nn.Linear(width, width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the log-probability that two keypoints match, (M, N)."""
        scale = first.shape[1] ** 0.25
        similar = (self.final_proj(first) / scale) @ (self.final_proj(second) / scale).T
        has_match = functional.logsigmoid(self.matchability(first)) + functional.logsigmoid(self.matchability(second)).T
        return torch.log_softmax(similar, dim=1) + torch.log_softmax(similar, dim=0) + has_match


def _feedforward(width: int) -> nn.Sequential:
    twice = 2 * width
    return nn.Sequential(nn.Linear(twice, twice), nn.LayerNorm(twice), nn.GELU(), nn.Linear(twice, width))


def _split(values: Tensor) -> Tensor:
    return values.reshape(-1, _HEADS, values.shape[1] // _HEADS).transpose(0, 1)


def _rotate(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    size = values.shape[2]
    pairs = values.reshape(_HEADS, -1, size // 2, 2)
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=3).reshape(_HEADS, -1, size)
    return values * cosines + turned * sines


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    weights = torch.softmax(queries @ keys.transpose(1, 2) / queries.shape[2] ** 0.5, dim=2)
    return (weights @ values).transpose(0, 1).reshape(-1, _HEADS * values.shape[2])


def read_lightglue(path: Path) -> LightGlue:
    """Return the network with the weights of a file; nothing in the file is executed.

    Args:
        path: Weights as published, `.pth` or `.safetensors`.

    Raises:
        InputError: If the file has other weights, or cannot be read.
    """
    state = {_MODULE.sub(r"transformers.\2.\1_attn.", name): one for name, one in _read_weights(path).items()}
    layers = {int(found[1]) for name in state if (found := _LAYER.match(name))}
    try:
        width = state["transformers.0.self_attn.out_proj.weight"].shape[0]
        size = state["input_proj.weight"].shape[1] if "input_proj.weight" in state else width
        network = LightGlue(size=size, width=width, layers=len(layers))
        network.load_state_dict({name: state[name] for name in network.state_dict()})
    except (KeyError, RuntimeError, AttributeError) as error:
        raise _fault(path, f"a weight is missing or has another shape: {first_line(error)}") from error
    return network.eval()


def export_lightglue(network: LightGlue, path: Path) -> None:
    """Write a network as an ONNX file, which `retrieval.local` names beside its keypoint network.

    Args:
        network: The network.
        path: The file.

    Raises:
        InputError: If the package onnx is missing.
    """
    try:
        import onnx  # noqa: F401  (torch's exporter wants it, and says so less plainly)
    except ImportError as error:
        raise InputError(
            "the export needs onnx, which is not installed. Type `pip install 'whale-ray[fast]'`"
        ) from error
    size = network.size
    example = (torch.rand(1, 9, 2), torch.rand(1, 8, 2), torch.rand(1, 9, size), torch.rand(1, 8, size))
    names = {"kpts0": "M", "kpts1": "N", "desc0": "M", "desc1": "N"}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing, and that torch has a newer, slower exporter
        torch.onnx.export(
            network,
            example,
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=list(names),
            output_names=["matches0", "mscores0"],
            dynamic_axes={name: {1: count} for name, count in names.items()}
            | {"matches0": {0: "K"}, "mscores0": {0: "K"}},
        )
    path.write_bytes(buffer.getvalue())


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise _fault(path, "the file is not there")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for a foreign file
        raise _fault(path, f"it cannot be read: {first_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {}


def _fault(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} must have the weights of LightGlue, but {reason}. Name a file such as disk_lightglue.pth"
    )
