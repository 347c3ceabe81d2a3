"""Pair losses without a positive pair: refused if no batch can hold one, else a note in the epoch's row."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whale_ray.data.samplers import pk_batches, shuffled_batches
from whale_ray.errors import InputError
from whale_ray.learning.losses.registry import PAIR_LOSSES, build_loss
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.pair_positives import check_positives, missing_positives
from whale_ray.sweep.trials.training_round import note_on_pairs

ALONE = torch.arange(6)


def photographs(counts: list[int]) -> SimpleNamespace:
    """Return a data set of one split with that many training photographs of each individual."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return SimpleNamespace(splits=[SimpleNamespace(training_rows=lambda negatives: (labels, labels, len(counts)))])


def train(sampler: str, size: int, *, memory: int = 0) -> dict[str, object]:
    return {"sampler": sampler, "images_per_individual": size, "memory": memory, "epochs": 1}


@pytest.mark.parametrize(
    ("settings", "most", "said"),
    [
        (train("shuffle", 4), 1, "every individual has one training photograph and `train.sampler` is shuffle"),
        (train("pk", 1), 1, "every individual has one training photograph and `train.sampler` is pk"),
        (train("shuffle", 4), 2, ""),
        (train("pk", 2), 1, ""),
        (train("balanced", 1), 1, ""),
        (train("shuffle", 4, memory=64), 1, ""),
    ],
)
def test_only_batches_that_cannot_hold_a_positive_pair_are_refused(
    settings: dict[str, object], most: int, said: str
) -> None:
    assert missing_positives(settings, most=most) == said


@pytest.mark.parametrize("sampler", ["shuffle", "pk"])
@pytest.mark.parametrize("count", [5, 8, 23])
def test_the_batches_that_are_refused_hold_no_individual_twice(sampler: str, count: int) -> None:
    labels, numbers, steps = np.arange(count), np.random.default_rng(0), -(-count // 4)
    batches = (
        shuffled_batches(count, steps=steps, numbers=numbers)
        if sampler == "shuffle"
        else pk_batches(labels, steps=steps, batch_size=4, size=1, numbers=numbers)
    )
    assert all(len(set(labels[batch])) == len(batch) for batch in batches)


def test_a_sweep_with_a_pair_loss_on_single_photographs_is_refused_with_the_remedy(
    write_sweep: Callable[..., Sweep],
) -> None:
    sweep = write_sweep("loss.name=[arcface, triplet]", "train.sampler=shuffle")
    with pytest.raises(
        InputError, match=r"the loss triplet compares .*no batch can hold such a pair\. Take `train.samp"
    ):
        check_positives(sweep, photographs([1, 1, 1]))
    check_positives(sweep, photographs([1, 2]))
    check_positives(write_sweep("loss.name=[arcface, proxy_anchor]", "train.sampler=shuffle"), photographs([1, 1]))


@pytest.mark.parametrize("memory", [0, 4])
@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_an_epoch_without_a_positive_pair_has_a_note_that_names_the_cause(name: str, memory: int) -> None:
    loss = build_loss(name, num_classes=6, embedding_size=4, memory=memory)
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    loss(vectors, ALONE)
    assert "no batch of this epoch held two photographs of one individual" in note_on_pairs(loss)["note"]
    loss(vectors, torch.full((6,), -1))
    assert note_on_pairs(loss)  # unknown individuals are no positives of each other
    loss(vectors, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert note_on_pairs(loss) == {}


def test_a_miner_that_keeps_no_pair_has_another_note() -> None:
    loss = build_loss("triplet", num_classes=2, embedding_size=2)
    far = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert float(loss(far, torch.tensor([0, 0, 1, 1]))) == 0
    assert note_on_pairs(loss)["note"].startswith("the loss used none of the 4 positive pairs of this epoch")


def test_losses_with_proxies_have_no_note() -> None:
    loss = build_loss("arcface", num_classes=6, embedding_size=4)
    loss(torch.randn(6, 4), ALONE)
    assert note_on_pairs(loss) == {}
