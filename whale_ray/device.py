"""Where an encoder runs: on the processor, or on a GPU of which a share is reserved.

Knows torch's devices; knows neither encoders nor who reserves.
"""

from __future__ import annotations

from whale_ray.errors import InputError


def device_for(gpus: float) -> str:
    """`cuda` where a share of a GPU is reserved for this process, else `cpu`.

    Raises: InputError where one is reserved but torch cannot use it: work would go on many times slower, unnoticed.
    """
    if not gpus:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built for processors alone"
        raise InputError(
            f"with {gpus:g} GPU reserved, torch must be able to use one, but torch {torch.__version__} {built} and "
            "finds none. Install torch for this machine's GPU (pytorch.org/get-started), or reserve no GPU"
        )
    return "cuda"


def device_there(gpus: float) -> str:
    """`cuda` where a share of a GPU is wanted and there is one here, else `cpu`: for a process that reserves none."""
    try:
        return device_for(gpus)
    except InputError:
        return "cpu"
