"""Checks of a new encoder: the same embedding for the same picture, alone or in a batch, and a training step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.model_errors import named_model_errors

# Rounding in float32 depends on the size of the batch; it stays far below these.
_SHARE, _ROUNDING = 0.01, 1e-5
_NOT_FINITE = "not finite"


def check_embeddings(
    encoder: nn.Module, *, name: str, image_size: tuple[int, int], embedding_size: int, is_random: bool = False
) -> None:
    """Check that an encoder in evaluation mode is a function of the picture: no randomness, no state, no neighbors.

    Two measuring pictures are embedded together, then alone, then the first one again. Torch's default generator and
    the mode of the encoder stay as they are.

    Args:
        encoder: RGB images from 0 to 1, (B, 3, H, W), to embeddings (B, D).
        name: Its name, for messages.
        image_size: Height and width in pixels.
        embedding_size: D.
        is_random: Its weights are random: a deep network may overflow, or amplify rounding, until its batch statistics
            are learned.

    Raises:
        EncoderError: If an embedding is not finite, or a picture has several.
    """
    pictures, was_training = measuring_pictures(*image_size), encoder.training
    encoder.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), named_model_errors(name, "cannot embed two pictures"):
        together = _unit_vectors(encoder, pictures)
        if together.shape != (2, embedding_size):
            raise EncoderError(
                f"an encoder gives one embedding of {embedding_size} numbers a picture, but {name} gives "
                f"{tuple(together.shape)} for two. Choose another encoder"
            )
        fault = "" if together.is_meta else _find_fault(encoder, pictures, together)  # meta: built for its shapes
        if fault and is_random:
            twin = _learn_statistics(encoder, pictures)
            fault = _find_fault(twin, pictures, _unit_vectors(twin, pictures))
    encoder.train(was_training)
    if fault == _NOT_FINITE:
        if is_random:
            return
        raise EncoderError(f"an embedding must be finite, but {name} gives NaN or infinity. Choose other weights")
    if fault:
        raise EncoderError(
            f"a picture must always have the same embedding, but with {name} it moves by {fault}. Switch that off in "
            "its config, or choose another encoder"
        )


def _find_fault(encoder: nn.Module, pictures: Tensor, together: Tensor) -> str:
    """Return what is wrong with the embeddings of two pictures, alone and together; empty if nothing is."""
    first, second, again = (_unit_vectors(encoder, part) for part in (pictures[:1], pictures[1:], pictures[:1]))
    if not bool(torch.isfinite(torch.cat([together, first, second, again])).all()):
        return _NOT_FINITE
    allowed = max(_ROUNDING, _SHARE * float((first - second).norm()))
    if (moved := float((first - again).norm())) > allowed:
        return f"{moved:.2g} when it is embedded a second time: the model uses random masks or a state"
    if (moved := float((together - torch.cat([first, second])).norm(dim=1).max())) > allowed:
        return f"{moved:.2g} beside another picture: the model uses statistics of the batch"
    return ""


def _learn_statistics(encoder: nn.Module, pictures: Tensor) -> nn.Module:
    """Return a copy with the batch statistics of these pictures, which keep a deep random network in range."""
    twin = copy.deepcopy(encoder)
    norms = [layer for layer in twin.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the average of all batches, here of one
        layer.train()
    twin(pictures)
    return twin.eval()


def check_training_step(encoder: nn.Module, *, name: str, image_size: tuple[int, int]) -> None:
    """Run a forward and a backward pass in training mode. The encoder cannot be used afterwards.

    Args:
        encoder: The encoder.
        name: Its name, for messages.
        image_size: Height and width in pixels.

    Raises:
        EncoderError: If the model's code raises an exception.
    """
    remedy = "Write model.freeze: trunk, or choose another encoder"
    pictures = measuring_pictures(*image_size)
    with torch.random.fork_rng(devices=[]), named_model_errors(name, "cannot train", remedy=remedy):
        embeddings = encoder.train()(pictures)
        if embeddings.requires_grad:
            torch.autograd.backward(embeddings.sum())


def measuring_pictures(height: int, width: int) -> Tensor:
    """Return two unlike pictures, noise and a ramp from black to white, float32, shape (2, 3, height, width)."""
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, width).expand(3, height, width)
    return torch.stack([noise, ramp])


def _unit_vectors(encoder: nn.Module, pictures: Tensor) -> Tensor:
    return F.normalize(encoder(pictures).float(), dim=-1)
