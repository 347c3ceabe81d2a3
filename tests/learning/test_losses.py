from __future__ import annotations

import inspect
import math
import subprocess
import sys
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from whale_ray.errors import InputError
from whale_ray.learning.losses.parameters import Limits, LossParameter, read_parameters
from whale_ray.learning.losses.registry import (
    ACCEPTS_NEGATIVES,
    LOSSES,
    PAIR_LOSSES,
    build_loss,
    loss_parameters,
    parameter_faults,
)

CLASSES, SIZE = 5, 8
COUNTS = [1, 2, 16, 81, 100]
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 4])
WITH_UNKNOWN = torch.tensor([0, 0, -1, 1, 1, 2, -1, -1])


def embeddings(seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(len(LABELS), SIZE, generator=torch.Generator().manual_seed(seed))


def made(name: str, **parameters: Any) -> nn.Module:
    torch.manual_seed(1)
    return build_loss(name, num_classes=CLASSES, embedding_size=SIZE, class_counts=COUNTS, **parameters)


def unit(rows: Tensor) -> list[list[float]]:
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.tolist()]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def gap(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def mean_of_positive(values: list[float]) -> float:
    return mean([value for value in values if value > 0])


def close(loss: nn.Module, labels: Tensor, expected: float, x: Tensor | None = None) -> None:
    assert loss(embeddings() if x is None else x, labels).item() == pytest.approx(expected, rel=2e-4, abs=1e-6)


def centres(loss: nn.Module) -> list[list[float]]:
    return unit(next(loss.parameters()).detach().T)


def softmax_loss(rows: list[list[float]]) -> float:
    """Mean of -log softmax at place 0 of each row."""
    return mean([math.log(sum(math.exp(v - row[0]) for v in row)) for row in rows])


def test_arcface_adds_its_margin_in_degrees_to_the_own_angle() -> None:
    loss = made("arcface", margin_degrees=20.0, scale=10.0)
    rows = []
    for x, label in zip(unit(embeddings()), LABELS.tolist(), strict=True):
        cosines = [dot(x, w) for w in centres(loss)]
        own = math.cos(math.acos(cosines[label]) + math.radians(20.0))
        rows.append([10 * own] + [10 * c for i, c in enumerate(cosines) if i != label])
    close(loss, LABELS, softmax_loss(rows))


def test_subcenter_arcface_takes_the_nearest_of_each_individuals_centres() -> None:
    loss = made("subcenter_arcface", margin_degrees=15.0, scale=8.0, sub_centers=3)
    rows = []
    for x, label in zip(unit(embeddings()), LABELS.tolist(), strict=True):
        every = [dot(x, w) for w in centres(loss)]
        cosines = [max(every[3 * i : 3 * i + 3]) for i in range(CLASSES)]
        own = math.cos(math.acos(cosines[label]) + math.radians(15.0))
        rows.append([8 * own] + [8 * c for i, c in enumerate(cosines) if i != label])
    close(loss, LABELS, softmax_loss(rows))


def test_dynamic_arcface_has_a_margin_that_falls_with_the_images_of_an_individual() -> None:
    settings = {"margin_degrees_low": 4.0, "margin_degrees_high": 40.0, "power": 0.5}
    loss = made("dynamic_arcface", **settings, scale=8.0, sub_centers=2)
    margins = [4 + 36 / math.sqrt(count) for count in COUNTS]
    assert margins == pytest.approx([40.0, 29.456, 13.0, 8.0, 7.6], rel=1e-4)
    rows = []
    for x, label in zip(unit(embeddings()), LABELS.tolist(), strict=True):
        every = [dot(x, w) for w in centres(loss)]
        cosines = [max(every[2 * i : 2 * i + 2]) for i in range(CLASSES)]
        own = math.cos(math.acos(cosines[label]) + math.radians(margins[label]))
        rows.append([8 * own] + [8 * c for i, c in enumerate(cosines) if i != label])
    close(loss, LABELS, softmax_loss(rows))


def test_dynamic_arcface_with_one_margin_is_subcenter_arcface_beyond_half_a_turn_too() -> None:
    same = {"margin_degrees_low": 100.0, "margin_degrees_high": 100.0, "scale": 4.0, "sub_centers": 1}
    fixed = made("subcenter_arcface", margin_degrees=100.0, scale=4.0, sub_centers=1)
    away = -next(fixed.parameters()).detach().T[LABELS]  # as far from its own centre as can be
    for x in (embeddings(), away + 0.01 * embeddings()):
        torch.testing.assert_close(made("dynamic_arcface", **same)(x, LABELS), fixed(x, LABELS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [None, [1, 2], [1, 2, 3, 4, 0]])
def test_dynamic_arcface_needs_the_images_of_each_individual(counts: list[int] | None) -> None:
    with pytest.raises(InputError, match=r"needs how many images each of 5 individuals has, but got"):
        build_loss("dynamic_arcface", num_classes=CLASSES, embedding_size=SIZE, class_counts=counts)


def test_cosface_takes_its_margin_from_the_own_cosine() -> None:
    loss = made("cosface", margin=0.25, scale=12.0)
    rows = []
    for x, label in zip(unit(embeddings()), LABELS.tolist(), strict=True):
        cosines = [dot(x, w) for w in centres(loss)]
        rows.append([12 * (cosines[label] - 0.25)] + [12 * c for i, c in enumerate(cosines) if i != label])
    close(loss, LABELS, softmax_loss(rows))


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
def test_proxy_anchor_is_the_published_formula_with_unknown_whales_as_negatives(labels: Tensor) -> None:
    loss = made("proxy_anchor", margin=0.15, alpha=6.0)
    proxies, xs = unit(next(loss.parameters()).detach()), unit(embeddings())
    pull, push = [], []
    for individual, proxy in enumerate(proxies):
        cosines = [(dot(x, proxy), label == individual) for x, label in zip(xs, labels.tolist(), strict=True)]
        if any(own for _, own in cosines):
            pull.append(math.log(1 + sum(math.exp(-6 * (c - 0.15)) for c, own in cosines if own)))
        push.append(math.log(1 + sum(math.exp(6 * (c + 0.15)) for c, own in cosines if not own)))
    close(loss, labels, mean(pull) + sum(push) / CLASSES)


def test_proxy_anchor_equals_pytorch_metric_learning() -> None:
    from pytorch_metric_learning.losses import ProxyAnchorLoss

    ours, theirs = made("proxy_anchor"), ProxyAnchorLoss(CLASSES, SIZE)
    theirs.proxies.data.copy_(next(ours.parameters()).data)
    torch.testing.assert_close(ours(embeddings(), LABELS), theirs(embeddings(), LABELS))


def test_proxy_nca_is_a_softmax_over_squared_distances_to_the_proxies() -> None:
    loss = made("proxy_nca", softmax_scale=3.0)
    proxies = unit(next(loss.parameters()).detach())
    rows = []
    for x, label in zip(unit(embeddings()), LABELS.tolist(), strict=True):
        far = [-3 * gap(x, proxy) ** 2 for proxy in proxies]
        rows.append([far[label]] + [f for i, f in enumerate(far) if i != label])
    close(loss, LABELS, softmax_loss(rows))


def partners(labels: Tensor) -> list[tuple[int, list[int], list[int]]]:
    """Per image: its positives and its negatives, after the definition of -1."""
    names = labels.tolist()
    rows = []
    for i, own in enumerate(names):
        positives = [j for j, other in enumerate(names) if j != i and other == own and own >= 0]
        rows.append((i, positives, [j for j, other in enumerate(names) if other != own]))
    return rows


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
def test_multi_similarity_mines_within_epsilon_and_weighs_both_sides(labels: Tensor) -> None:
    alpha, beta, base, epsilon = 2.0, 10.0, 0.4, 0.2
    xs, losses = unit(embeddings()), []
    for i, positives, negatives in partners(labels):
        cosine = [dot(xs[i], x) for x in xs]
        hardest_negative = max(cosine[j] for j in negatives)
        hardest_positive = min((cosine[j] for j in positives), default=math.inf)
        kept = [cosine[j] for j in positives if cosine[j] < hardest_negative + epsilon]
        against = [cosine[j] for j in negatives if cosine[j] > hardest_positive - epsilon]
        pull = math.log(1 + sum(math.exp(-alpha * (c - base)) for c in kept)) / alpha
        push = math.log(1 + sum(math.exp(beta * (c - base)) for c in against)) / beta
        losses.append(pull + push)
    close(made("multi_similarity", alpha=alpha, beta=beta, base=base, epsilon=epsilon), labels, mean(losses))


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
@pytest.mark.parametrize("mining", ["semihard", "hard", "all", "batch_hard"])
def test_triplet_counts_the_triplets_its_miner_picks(labels: Tensor, mining: str) -> None:
    xs, margin, losses = unit(embeddings()), 0.3, []
    for i, positives, negatives in partners(labels):
        far, near = ([gap(xs[i], xs[j]) for j in which] for which in (positives, negatives))
        pairs = [(p, n) for p in far for n in near]
        if mining == "batch_hard":
            pairs = [(max(far), min(near))] if pairs else []
        if mining == "semihard":
            pairs = [(p, n) for p, n in pairs if n > p]
        if mining == "hard":
            pairs = [(p, n) for p, n in pairs if n <= p]
        losses += [max(0.0, p - n + margin) for p, n in pairs]
    assert any(value > 0 for value in losses)
    close(made("triplet", margin=margin, mining=mining), labels, mean_of_positive(losses))


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
def test_supcon_averages_the_log_probability_of_the_positives(labels: Tensor) -> None:
    xs, losses = unit(embeddings()), []
    for i, positives, negatives in partners(labels):
        logits = [dot(xs[i], x) / 0.5 for x in xs]
        others = math.log(sum(math.exp(logits[j]) for j in positives + negatives))
        if positives:
            losses.append(-mean([logits[j] - others for j in positives]))
    close(made("supcon", temperature=0.5), labels, mean(losses))


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
def test_contrastive_pulls_pairs_below_and_pushes_them_above_a_distance(labels: Tensor) -> None:
    xs, pull, push = unit(embeddings()), [], []
    for i, positives, negatives in partners(labels):
        pull += [max(0.0, gap(xs[i], xs[j]) - 0.2) for j in positives]
        push += [max(0.0, 1.3 - gap(xs[i], xs[j])) for j in negatives]
    expected = mean_of_positive(pull) + mean_of_positive(push)
    close(made("contrastive", pos_margin=0.2, neg_margin=1.3), labels, expected)


# Memory


def batches_of(count: int, labels: Tensor = LABELS) -> list[tuple[Tensor, Tensor]]:
    return [(embeddings(seed), labels.roll(seed)) for seed in range(count)]


@pytest.mark.parametrize("labels", [LABELS, WITH_UNKNOWN])
def test_a_batch_is_compared_with_itself_and_with_the_memory(labels: Tensor) -> None:
    loss = made("contrastive", pos_margin=0.2, neg_margin=1.3, memory=12)
    past: list[tuple[list[float], int]] = []
    for x, names in batches_of(4, labels):
        mine = list(zip(unit(x), names.tolist(), strict=True))
        pull, push = [], []
        for place, (vector, own) in enumerate(mine):
            for other, (against, name) in enumerate(mine + past[-12:]):
                if own == name and own >= 0 and other != place:
                    pull.append(max(0.0, gap(vector, against) - 0.2))
                if own != name:
                    push.append(max(0.0, 1.3 - gap(vector, against)))
        close(loss, names, mean_of_positive(pull) + mean_of_positive(push), x)
        past += mine
    assert len(past) > 12 + len(labels)  # the oldest were forgotten


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_the_value_is_that_of_pytorch_metric_learnings_memory(name: str) -> None:
    from pytorch_metric_learning.losses import CrossBatchMemory

    ours = made(name, memory=16)
    inner = made(name)
    miner = inner.pairs if hasattr(inner.pairs, "mine") else None
    # theirs counts the batch itself among what is remembered
    theirs = CrossBatchMemory(inner.loss, SIZE, memory_size=16 + len(LABELS), miner=miner)
    for x, names in batches_of(5):
        torch.testing.assert_close(ours(x, names), theirs(x, names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_an_empty_memory_changes_nothing_and_has_no_gradient(name: str) -> None:
    for labels in (LABELS, WITH_UNKNOWN):
        x, y = embeddings().requires_grad_(), embeddings().requires_grad_()
        plain, remembering = made(name), made(name, memory=32)
        plain(x, labels).backward()
        remembering(y, labels).backward()
        torch.testing.assert_close(x.grad, y.grad)
        assert list(remembering.parameters()) == []
        remembering(embeddings(1), labels)
        assert not remembering.embeddings.requires_grad


def test_multi_similarity_with_a_memory_pushes_nothing_from_an_image_that_has_no_other() -> None:
    loss = made("multi_similarity", epsilon=0.5, memory=4)
    near = torch.tensor([[1.0, 0.1], [1.0, 0.0]]).repeat(1, SIZE // 2).requires_grad_()
    assert loss(near, torch.tensor([0, 1])).item() == 0.0


def test_a_memory_smaller_than_a_batch_holds_its_last_images() -> None:
    loss = made("contrastive", memory=3)
    for x, names in batches_of(3):
        loss(x, names)
        assert sorted(loss.labels.tolist()) == sorted(names[-3:].tolist())
        assert {tuple(row) for row in loss.embeddings.tolist()} == {tuple(row) for row in x[-3:].tolist()}


def test_the_memory_is_in_the_state() -> None:
    loss, again = made("supcon", memory=12), made("supcon", memory=12)
    for x, names in batches_of(3):
        loss(x, names)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(loss(embeddings(7), LABELS), again(embeddings(7), LABELS))
    assert int(again.seen) == 4 * len(LABELS)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_length_of_an_embedding_does_not_matter(name: str) -> None:
    loss = made(name)
    stretched = embeddings() * torch.linspace(0.5, 20, len(LABELS))[:, None]
    torch.testing.assert_close(loss(embeddings(), LABELS), loss(stretched, LABELS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_half_precision_embedding_is_compared_in_float32(name: str) -> None:
    loss = made(name)
    value = loss(embeddings().bfloat16(), LABELS)
    assert value.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in loss.parameters())


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("labels", [[3], [0, 1, 2], [2, 2, 2]])
def test_a_batch_without_pairs_gives_a_finite_loss_and_gradient(name: str, labels: list[int]) -> None:
    x = embeddings()[: len(labels)].requires_grad_()
    loss = made(name)(x, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(ACCEPTS_NEGATIVES - {"proxy_anchor"}))
def test_two_unknown_whales_are_neither_positive_nor_negative(name: str) -> None:
    x = embeddings()[:2].requires_grad_()
    made(name)(x, torch.tensor([-1, -1])).backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - ACCEPTS_NEGATIVES))
def test_a_loss_without_negatives_refuses_the_label_minus_one(name: str) -> None:
    with pytest.raises(ValueError, match="named individuals only, but got the label -1"):
        made(name)(embeddings(), WITH_UNKNOWN)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_descending_the_gradient_lowers_the_loss(name: str) -> None:
    loss, x = made(name), embeddings().requires_grad_()
    optimiser = torch.optim.SGD([x, *loss.parameters()], lr=0.05)
    first = loss(x, LABELS)
    for _ in range(20):
        optimiser.zero_grad()
        loss(x, LABELS).backward()
        optimiser.step()
    assert loss(x, LABELS) < first


def test_parameters_have_types_and_defaults() -> None:
    found = loss_parameters("subcenter_arcface")
    assert found == {
        "margin_degrees": LossParameter(float, 28.6, (), Limits(0.0, 180.0)),
        "scale": LossParameter(float, 64.0, (), Limits(1e-6)),
        "sub_centers": LossParameter(int, 3, (), Limits(1)),
    }
    assert loss_parameters("triplet")["mining"].choices == ("semihard", "hard", "all", "batch_hard")


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_parameter_has_a_default_that_fits_its_limits(name: str) -> None:
    parameters = loss_parameters(name)
    assert parameter_faults(name, {key: value.default for key, value in parameters.items()}) == {}
    assert all(isfinite(value.limits.low) for value in parameters.values() if value.kind in (int, float))
    signature = inspect.signature(LOSSES[name].build).parameters
    assert all(value.kind is inspect.Parameter.KEYWORD_ONLY for value in signature.values())


def test_a_number_without_limits_is_refused() -> None:
    def build(*, num_classes: int, margin=0.5):  # type: ignore[no-untyped-def]
        return None

    build.__annotations__["margin"] = float
    with pytest.raises(TypeError, match=r"build\.margin must have limits"):
        read_parameters(build, without=("num_classes",))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("arcfase", {}, r"no loss is called 'arcfase'; there are arcface.*Did you mean `arcface`\?"),
        ("arcface", {"margin": 0.5}, r"arcface has no parameter 'margin'.*it has margin_degrees, scale"),
        ("arcface", {"margin_degres": 5.0}, r"Did you mean `margin_degrees`\?"),
        ("arcface", {"margin_degrees": 200.0}, "must be a number from 0 to 180, but got 200.0"),
        (
            "dynamic_arcface",
            {"margin_degrees_low": 30.0},
            "margin_degrees_low must not be larger than margin_degrees_high, but got 30 and 28.6",
        ),
        ("arcface", {"memory": 8}, r"a memory is for losses that compare images \(contrastive, .*but got arcface"),
        ("subcenter_arcface", {"sub_centers": 1.5}, "must be a whole number of at least 1, but got 1.5"),
        ("triplet", {"mining": "easy"}, "must be one of semihard, hard, all, batch_hard, but got 'easy'"),
        ("supcon", {"temperature": 0.0}, "supcon.temperature must be a number of at least 1e-06"),
        ("supcon", {"temperature": math.nan}, "supcon.temperature must be"),
        ("cosface", {"scale": True}, "cosface.scale must be a number"),
        ("cosface", {"scale": "64"}, "cosface.scale must be a number"),
    ],
)
def test_a_wrong_loss_or_parameter_is_refused_with_the_valid_ones(name: str, parameters: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(name, **parameters)


def test_names_and_parameters_are_read_without_torch() -> None:
    code = "import sys, whale_ray.learning.losses.registry as l; [l.loss_parameters(n) for n in l.LOSSES]; "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
