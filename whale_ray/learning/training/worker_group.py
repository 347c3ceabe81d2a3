"""Workers that train one encoder together with torch.distributed: gathered embeddings and summed gradients.

Each worker embeds its images of a batch and computes the loss of the whole batch, of which it differentiates its own
embeddings. Summed over the workers, the gradients equal those of a single worker within float tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from whale_ray.errors import TrainingError
from whale_ray.learning.training.synchronized_norms import SynchronizedBatchNorm

Value = TypeVar("Value")


class FirstWorkerError(Exception):
    """The first worker has failed or stopped; its own error says why."""


class WorkerGroup:
    """The workers of one training, which all run the same code; a single worker by default.

    Args:
        rank: Number of this worker, from 0.
        size: Number of workers. With several, torch.distributed's default process group connects them; it moves
            tensors on the CPU (gloo) and, for a training on GPUs, also on these (nccl).
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """True for the worker that scores, writes and reports."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return the first worker's `make()` on every worker. Only the first one calls it; the others wait.

        Raises:
            FirstWorkerError: If `make` raises on the first worker, which raises the error itself.
        """
        if self.size == 1:
            return make()
        if not self.is_first:
            received = self._broadcast([None, False])
            if not received[1]:
                raise FirstWorkerError("the first worker has ended")
            value: Value = received[0]
            return value
        try:
            value = make()
        except BaseException:  # also the end of a trial that early stopping stops
            self._broadcast([None, False])
            raise
        self._broadcast([value, True])
        return value

    def _broadcast(self, values: list[Any]) -> list[Any]:
        torch.distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values

    def check_batch(self, count: int) -> None:
        """Raise TrainingError if a batch has fewer images than there are workers.

        Args:
            count: Number of images of the batch.
        """
        if count < self.size:
            raise TrainingError(
                f"each of {self.size} workers needs an image of every batch, but a batch has {count}. Lower "
                "resources.workers, or use a larger train.batch_size"
            )

    def synchronized_norms(self) -> AbstractContextManager[object]:
        """Return a context in which batch normalizations use the statistics of all workers' images."""
        return nullcontext() if self.size == 1 else SynchronizedBatchNorm()

    def gather_embeddings(self, embeddings: Tensor, count: int) -> Tensor:
        """Return the embeddings of the whole batch in its order; only those of this worker have a gradient.

        Args:
            embeddings: Embeddings of this worker's images: rank, rank + size, rank + 2 size …, shape (b, D).
            count: Number of images of the batch, B.

        Returns:
            Shape (B, D).
        """
        if self.size == 1:
            return embeddings
        padded = embeddings.new_zeros(-(-count // self.size), embeddings.shape[1])
        padded[: len(embeddings)] = embeddings.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(parts, padded)
        whole = torch.stack(parts, dim=1).flatten(0, 1)[:count]
        whole[self.rank :: self.size] = embeddings
        return whole

    def sum_gradients(self, encoder: nn.Module, loss: nn.Module) -> None:
        """Sum the encoder's gradients over the workers and average those of the loss.

        Args:
            encoder: Each worker has the gradients of its images; they are summed.
            loss: Each worker has the gradients of the whole batch; they are averaged, so that the proxies stay equal.
        """
        if self.size > 1:
            self._sum(encoder.parameters(), share=1.0)
            self._sum(loss.parameters(), share=1.0 / self.size)

    def _sum(self, parameters: Iterable[nn.Parameter], *, share: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(joined)
        for gradient, part in zip(gradients, torch.split(joined, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient)).mul_(share)


SINGLE_WORKER = WorkerGroup()
