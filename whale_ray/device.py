"""Choice of the device that runs an encoder (CPU, or a GPU of which a share is reserved), its threads and memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whale_ray.errors import InputError

if TYPE_CHECKING:
    import torch

IDLE_GPU = "no trial uses the GPU that is there: with resources.gpus=0.5, two trials share one"
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # options of mallopt(3)
_PAD = 64 * 2**20  # bytes that the heap grows by
_OWN_CHOICES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
_THREADS = "OMP_NUM_THREADS"  # read by PyTorch, faiss and OpenBLAS when they are loaded


def worker_resources(*, cpus: float, gpus: float) -> dict[str, float]:
    """Return what Ray reserves for one worker of a trial, by Ray's resource name.

    Args:
        cpus: CPUs per worker.
        gpus: GPUs per worker; a fraction is a share of one.
    """
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


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


def has_int8() -> bool:
    """Return False on an x86 processor without VNNI, where products of 8-bit integers are slow and may overflow."""
    import torch

    able = torch.cpu.get_capabilities()
    has_vnni = any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return bool(able.get("architecture") != "x86_64" or has_vnni)


@contextlib.contextmanager
def restored_threads() -> Iterator[None]:
    """Restore the threads of PyTorch and OpenCV, whose number holds for the whole process, at the end of the block."""
    import cv2
    import torch

    before, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(of_opencv)


def limit_threads(count: int) -> None:
    """Limit PyTorch and OpenCV to so many threads in this process; OpenCV would take every core.

    Args:
        count: Threads, at least 1.
    """
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


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


def available_cpus() -> int:
    """Return the CPUs that this process may use, at least 1: its affinity, or the CPU quota of its container.

    A quota is rounded up. `joblib.cpu_count` reads the quota of the root control group alone and takes a quarter of a
    second to import.
    """
    return max(1, min(_affinity(), math.ceil(min(cpu_quota(), 2**31))))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(system: Path = Path("/")) -> float:
    """Return the CPUs that the control groups of this process grant, the smallest of all levels; infinity for no quota.

    Both versions of control groups count: `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1.

    Args:
        system: Root of the file system.
    """
    return min(map(_granted_cpus, _control_groups(system)), default=math.inf)


def _control_groups(system: Path) -> Iterator[Path]:
    """Yield the folder of each control group that limits the CPUs of this process, and its parents."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = root / path.lstrip("/")  # it may be missing in a container, whose root is the own group
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _granted_cpus(folder: Path) -> float:
    """Return the quota of one control group in CPUs; infinity if it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        granted = float(quota) / float(period)
    except (OSError, ValueError):  # "max" is no number
        return math.inf
    return granted if granted > 0 else math.inf


def limit_default_threads() -> None:
    """Limit the threads of libraries that this process loads later to the CPU quota of its container, if it has one.

    PyTorch, faiss and OpenBLAS start one thread per core of the machine. With a smaller quota, the kernel then stops
    all of them for most of each period. A value of the user stays.
    """
    cpus = available_cpus()
    if cpus < _affinity():
        os.environ.setdefault(_THREADS, str(cpus))


@contextlib.contextmanager
def without_default_threads() -> Iterator[None]:
    """Remove the limit of `limit_default_threads` within the block: Ray sets one for each worker by its CPUs."""
    limit = os.environ.get(_THREADS)
    is_ours = limit == str(available_cpus()) and available_cpus() < _affinity()
    if is_ours:
        del os.environ[_THREADS]
    try:
        yield
    finally:
        if is_ours and limit is not None:
            os.environ[_THREADS] = limit
