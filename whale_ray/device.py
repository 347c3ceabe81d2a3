"""Choice of the device that runs an encoder (CPU, or a GPU of which a share is reserved), its threads and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from whale_ray.errors import InputError

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # options of mallopt(3)
_PAD = 64 * 2**20  # bytes that the heap grows by
_OWN_CHOICES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def reserved_device(gpus: float) -> str:
    """Return `cuda` if this process has a share of a GPU, else `cpu`.

    Raises:
        InputError: If a share is reserved but torch cannot use the GPU; the CPU would be many times slower.
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


def available_device(gpus: float) -> str:
    """Return `cuda` if a share of a GPU is wanted and torch sees one, else `cpu`. For processes that reserve none."""
    try:
        return reserved_device(gpus)
    except InputError:
        return "cpu"


def has_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Return True if the processor or GPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


@contextlib.contextmanager
def restored_threads() -> Iterator[None]:
    """Restore PyTorch's number of threads, which is one for the whole process, at the end of the block."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next allocation of this process.

    By default glibc returns blocks above 32 MB, as the activations of a batch are, to the system when they are freed,
    and each step spends up to half of its time on new pages of zeros. Processes that run encoders on a CPU call this;
    their peak memory grows by up to two fifths (docs/experiments/training-speed.md). Nothing is changed where the
    environment already chooses an allocator or its options, or where the C library is not glibc.
    """
    if any(os.environ.get(name) for name in _OWN_CHOICES):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)):
        mallopt(option, value)
