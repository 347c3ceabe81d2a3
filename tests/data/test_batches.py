"""Batches: sampling, augmentation and prefetching."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from whale_ray.data.augmentations import sample_affine
from whale_ray.data.batches import Batches, FeatureBatches, prefetch_one
from whale_ray.data.image_io import Geometry, center_crop

PLAIN = Geometry(16, 24)


def numbered(count: int, geometry: Geometry = PLAIN) -> np.ndarray:
    """Pictures of one grey level each: that of their row."""
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (count, *geometry.stored, 3)).copy()


def noisy(count: int, geometry: Geometry) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *geometry.stored, 3), dtype=np.uint8)


def made(labels: list[int], **settings: object) -> Batches:
    options: dict[str, object] = {"batch_size": 8, "images_per_individual": None} | settings
    count = len(labels)
    return Batches(numbered(count), PLAIN, np.arange(count), np.array(labels), **options)  # type: ignore[arg-type]


def rows_of(pictures: torch.Tensor) -> list[int]:
    return (pictures[:, 0, 0, 0] * 255).round().int().tolist()


def test_batches_are_floats_from_0_to_1_in_torchs_order() -> None:
    array = noisy(4, PLAIN)
    batches = Batches(array, PLAIN, np.array([2]), np.array([0]), batch_size=4, images_per_individual=None)
    ((pictures, labels),) = batches.epoch(0)
    assert pictures.shape == (1, 3, 16, 24)
    assert pictures.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert np.allclose(pictures[0].numpy() * 255, array[2].transpose(2, 0, 1), atol=1e-3)


def test_shuffling_shows_every_photograph_once_with_its_label() -> None:
    batches = made([row % 5 for row in range(30)])
    seen = [
        pair for pictures, labels in batches.epoch(1) for pair in zip(rows_of(pictures), labels.tolist(), strict=True)
    ]
    assert sorted(seen) == [(row, row % 5) for row in range(30)]
    assert batches.steps == 4
    assert batches.num_classes == 5


def test_rows_choose_from_the_array() -> None:
    batches = Batches(
        numbered(30), PLAIN, np.array([3, 17, 20]), np.array([0, 1, 1]), batch_size=2, images_per_individual=None
    )
    seen = {
        row: label
        for pictures, labels in batches.epoch(0)
        for row, label in zip(rows_of(pictures), labels, strict=True)
    }
    assert seen == {3: 0, 17: 1, 20: 1}


@pytest.mark.parametrize("count", [9, 17, 31, 33])
def test_no_batch_has_a_single_picture_where_there_are_more(count: int) -> None:
    batches = made([row % 3 for row in range(count)])
    sizes = [len(labels) for _, labels in batches.epoch(0)]
    assert len(sizes) == batches.steps
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 8


@pytest.mark.parametrize("per_individual", [None, 4])
def test_an_epoch_depends_on_seed_and_number_alone(per_individual: int | None) -> None:
    labels = [row % 5 for row in range(40)]
    options = {"images_per_individual": per_individual, "colour": 1.0, "flip": "augment", "erasing": 1.0, "blur": 1.0}

    def epoch(seed: int, number: int) -> list[torch.Tensor]:
        return [tensor for pair in made(labels, seed=seed, **options).epoch(number) for tensor in pair]

    batches = made(labels, seed=3, **options)
    list(batches.epoch(0))
    torch.manual_seed(99)
    next(batches.epoch(7))
    again = [tensor for pair in batches.epoch(7) for tensor in pair]
    assert all(torch.equal(one, other) for one, other in zip(again, epoch(3, 7), strict=True))
    for other in (epoch(3, 8), epoch(4, 7)):
        assert any(not torch.equal(one, two) for one, two in zip(again, other, strict=True))


def test_the_global_random_state_of_torch_and_numpy_is_unchanged() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(made([0, 0, 1, 1], colour=1.0, affine=1.0).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_p_times_k_batches_have_k_images_of_each_individual() -> None:
    batches = made([row // 5 for row in range(60)], batch_size=16, images_per_individual=4)
    for _, labels in batches.epoch(0):
        assert len(labels) == 16
        assert all(count % 4 == 0 for count in Counter(labels.tolist()).values())


def test_an_individual_with_fewer_than_k_photographs_repeats_them_evenly() -> None:
    batches = made([0, 0, 1, 2, 2, 2], batch_size=12, images_per_individual=4)
    ((pictures, labels),) = batches.epoch(0)
    counts = Counter(zip(labels.tolist(), rows_of(pictures), strict=True))
    assert Counter(labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert counts[(0, 0)] == counts[(0, 1)] == 2
    assert counts[(1, 2)] == 4
    assert sorted(counts[(2, row)] for row in (3, 4, 5)) == [1, 1, 2]


def test_an_epoch_shows_about_as_many_pictures_as_there_are() -> None:
    labels = [individual for individual in range(40) for _ in range(1 + individual % 7)]
    batches = made(labels, batch_size=16, images_per_individual=4)
    shown = sum(len(labels) for _, labels in batches.epoch(0))
    assert abs(shown - len(labels)) < 16


def test_every_photograph_is_used_within_some_epochs() -> None:
    labels = [individual for individual in range(30) for _ in range(1 + individual % 7)]
    batches = made(labels, batch_size=16, images_per_individual=4)
    seen = {row for number in range(12) for pictures, _ in batches.epoch(number) for row in rows_of(pictures)}
    assert seen == set(range(len(labels)))


def test_unknown_whales_take_their_share_of_each_batch() -> None:
    labels = [individual for individual in range(10) for _ in range(6)] + [-1] * 20
    batches = made(labels, batch_size=16, images_per_individual=4)
    assert batches.num_classes == 10
    for _, found in batches.epoch(0):
        assert (found == -1).sum() == 4
        assert len(found) == 16


@pytest.mark.parametrize(("share", "expected"), [(0.25, 4), (0.5, 8), (0.7, 11)])
def test_unknown_whales_take_the_share_that_is_asked_for(share: float, expected: int) -> None:
    labels = [individual for individual in range(10) for _ in range(6)] + [-1] * 20
    for sampling in ({}, {"evenly": True}):
        batches = made(labels, batch_size=16, images_per_individual=4, negatives_share=share, **sampling)
        for _, found in batches.epoch(0):
            assert (found == -1).sum() == expected
            assert (found != -1).sum() == (16 - expected) // 4 * 4


def test_without_unknown_whales_their_share_has_no_effect() -> None:
    batches = made([row // 4 for row in range(32)], batch_size=8, images_per_individual=2, negatives_share=0.5)
    assert all(len(found) == 8 and (found >= 0).all() for _, found in batches.epoch(0))


def test_evenly_draws_every_individual_equally_often() -> None:
    labels = [0] * 90 + [1] * 20 + [2] * 9 + [3]
    even = made(labels, batch_size=12, images_per_individual=3, evenly=True)
    by_images = made(labels, batch_size=12, images_per_individual=3)
    seen = Counter(label for _, found in even.epoch(3) for label in found.tolist())
    assert set(seen.values()) == {30}
    assert even.steps == by_images.steps == 10
    usual = Counter(label for _, found in by_images.epoch(3) for label in found.tolist())
    assert usual[0] > 3 * usual[1] > 3 * usual[3]


def test_evenly_uses_all_images_of_an_individual_before_one_repeats() -> None:
    batches = made([0] * 7 + [1] * 2, batch_size=4, images_per_individual=2, evenly=True)
    shown: list[int] = []
    for pictures, labels in batches.epoch(5):
        assert sorted(labels.tolist()) == [0, 0, 1, 1]
        shown += [row for row, label in zip(rows_of(pictures), labels.tolist(), strict=True) if label == 0]
    assert len(shown) == 6
    assert len(set(shown)) == 6


def test_a_group_of_p_times_k_is_mirrored_as_a_whole_where_that_makes_another_individual() -> None:
    labels = [individual for individual in range(6) for _ in range(5)] + [-1] * 10
    batches = made(labels, batch_size=20, images_per_individual=5, flip="new_individual", negatives_share=0.25)
    sides = []
    for number in range(8):
        for _, found in batches.epoch(number):
            groups = found[:15].reshape(3, 5)
            assert (groups == groups[:, :1]).all()
            assert (found[15:] == -1).all()
            sides += (groups[:, 0] >= 6).tolist()
    assert 0.25 < np.mean(sides) < 0.75


def test_the_images_of_each_class_are_counted() -> None:
    labels = [0, 0, 0, 1, 2, 2, -1, -1]
    assert made(labels).class_counts == [3, 1, 2]
    assert made(labels, flip="new_individual").class_counts == [3, 1, 2, 3, 1, 2]


def test_without_p_times_k_unknown_whales_are_shuffled_in() -> None:
    batches = made([0, 1, -1, -1, 0], batch_size=2)
    assert sorted(label for _, labels in batches.epoch(0) for label in labels.tolist()) == [-1, -1, 0, 0, 1]


def test_without_augmentation_batches_are_the_center_crop() -> None:
    geometry = Geometry(16, 24, margin=0.25)
    array = noisy(6, geometry)
    batches = Batches(array, geometry, np.arange(6), np.arange(6), batch_size=6, images_per_individual=None)
    ((pictures, labels),) = batches.epoch(0)
    expected = center_crop(array, geometry)[labels.numpy()].transpose(0, 3, 1, 2)
    assert np.allclose(pictures.numpy() * 255, expected, atol=1e-3)


def test_flipping_as_augmentation_mirrors_about_half_and_keeps_the_labels() -> None:
    array = noisy(64, PLAIN)
    batches = Batches(
        array, PLAIN, np.arange(64), np.arange(64), batch_size=64, images_per_individual=None, flip="augment"
    )
    ((pictures, labels),) = batches.epoch(0)
    plain = torch.from_numpy(array[labels.numpy()]).permute(0, 3, 1, 2) / 255
    same = (pictures - plain).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (pictures - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48
    assert batches.num_classes == 64


def test_a_mirrored_picture_can_be_an_individual_of_its_own_but_an_unknown_whale_stays_unknown() -> None:
    array = noisy(64, PLAIN)
    individuals = np.array([row % 4 - 1 for row in range(64)])
    batches = Batches(
        array, PLAIN, np.arange(64), individuals, batch_size=64, images_per_individual=None, flip="new_individual"
    )
    assert batches.num_classes == 6
    ((pictures, labels),) = batches.epoch(0)
    where = {picture.tobytes(): row for row, picture in enumerate(array)}
    for picture, label in zip(
        (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1), labels.tolist(), strict=True
    ):
        row = where.get(picture.numpy().tobytes())
        if row is None:
            individual = individuals[where[picture.flip(1).contiguous().numpy().tobytes()]]
            assert label == (-1 if individual == -1 else individual + 3)
        else:
            assert label == individuals[row]


@pytest.mark.parametrize("name", ["affine", "colour", "blur", "erasing"])
def test_each_augmentation_changes_pictures_and_stays_between_0_and_1(name: str) -> None:
    geometry = Geometry(16, 24, margin=0.25)
    array = noisy(32, geometry)
    batches = Batches(
        array, geometry, np.arange(32), np.arange(32), batch_size=32, images_per_individual=None, **{name: 1.0}
    )
    ((pictures, labels),) = batches.epoch(0)
    plain = torch.from_numpy(center_crop(array, geometry)[labels.numpy()]).permute(0, 3, 1, 2) / 255
    changed = (pictures - plain).abs().amax(dim=(1, 2, 3)) > 0.01
    assert changed.sum() >= 8
    assert pictures.shape == (32, 3, 16, 24)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


@pytest.mark.parametrize("name", ["affine", "colour", "blur", "erasing"])
def test_a_weak_augmentation_changes_less_than_a_strong_one(name: str) -> None:
    geometry = Geometry(16, 24, margin=0.25)
    smooth = np.linspace(0, 255, 36 * 24, dtype=np.uint8).reshape(1, 24, 36, 1).repeat(64, 0).repeat(3, 3)
    smooth[:, ::4] //= 2

    def change(strength: float) -> float:
        batches = Batches(
            smooth,
            geometry,
            np.arange(64),
            np.arange(64),
            batch_size=64,
            images_per_individual=None,
            **{name: strength},
        )
        ((pictures, _),) = batches.epoch(0)
        plain = torch.from_numpy(center_crop(smooth, geometry).copy()).permute(0, 3, 1, 2) / 255
        return float((pictures - plain).abs().mean())

    assert 0 < change(0.2) < change(1.0)


@pytest.mark.parametrize("size", [(16, 24), (33, 21)])
def test_sampling_on_a_processor_equals_that_of_torch(size: tuple[int, int]) -> None:
    pictures, turned = torch.rand(5, 3, 40, 30), torch.eye(2, 3) + 0.4 * torch.randn(5, 2, 3)
    grid = torch.nn.functional.affine_grid(turned, [5, 3, *size], align_corners=False)
    expected = torch.nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(sample_affine(pictures, turned, *size), expected, atol=5e-5, rtol=0)


def test_a_rotation_keeps_a_disc_round_where_the_picture_is_wide() -> None:
    """Axes of a drawn disc, from the second moments of its mask: equal up to the drawn shear of strength 0.5."""
    geometry = Geometry(64, 192, margin=0.125)
    height, width = geometry.stored
    y, x = np.mgrid[:height, :width]
    disc = ((y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < 20**2).astype(np.uint8) * 255
    array = np.repeat(disc[None, ..., None], 3, axis=3).repeat(32, axis=0)
    batches = Batches(
        array, geometry, np.arange(32), np.arange(32), batch_size=32, images_per_individual=None, affine=0.5
    )
    ((pictures, _),) = batches.epoch(0)
    for picture in pictures[:, 0].numpy():
        rows, columns = np.nonzero(picture > 0.5)
        axes = np.linalg.eigvalsh(np.cov(rows, columns))
        assert np.sqrt(axes[1] / axes[0]) < 1.12


def test_shifted_images_are_filled_from_the_margin() -> None:
    geometry = Geometry(32, 32, margin=0.125)
    array = np.full((64, *geometry.stored, 3), 255, dtype=np.uint8)
    batches = Batches(
        array, geometry, np.arange(64), np.arange(64), batch_size=64, images_per_individual=None, affine=1.0
    )
    ((pictures, _),) = batches.epoch(0)
    assert pictures.min() > 0.999


def test_erasing_fills_one_rectangle_of_some_images_with_gray() -> None:
    array = np.full((64, 16, 24, 3), 255, dtype=np.uint8)
    batches = Batches(
        array, PLAIN, np.arange(64), np.arange(64), batch_size=64, images_per_individual=None, erasing=1.0
    )
    ((pictures, _),) = batches.epoch(0)
    erased = pictures[:, 0] == 0.5
    assert 8 < erased.any(dim=(1, 2)).sum() < 56
    for mask in erased[erased.any(dim=(1, 2))]:
        rows, columns = torch.where(mask)
        tall, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert mask.sum() == tall * wide <= 0.4 * 16 * 24


def test_color_keeps_gray_and_blur_keeps_a_constant_image() -> None:
    grey = np.repeat(noisy(32, PLAIN)[..., :1], 3, axis=3)
    coloured = Batches(grey, PLAIN, np.arange(32), np.arange(32), batch_size=32, images_per_individual=None, colour=1.0)
    ((pictures, _),) = coloured.epoch(0)
    assert torch.allclose(pictures[:, :1].expand(-1, 3, -1, -1), pictures, atol=1e-5)
    blurred = made([row % 4 for row in range(32)], batch_size=32, blur=1.0)
    ((pictures, _),) = blurred.epoch(0)
    assert torch.allclose(pictures, pictures[:, :1, :1, :1].expand_as(pictures), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_a_gpu_receives_the_same_images_and_labels_as_a_cpu_with_asynchronous_copies(
    margin: float,
) -> None:
    """The draws of an epoch are another device's own, so nothing is varied here."""
    geometry = Geometry(64, 96, margin=margin)
    array, labels = noisy(200, geometry), np.arange(200) % 40
    options = {"batch_size": 16, "images_per_individual": 4, "seed": 3}
    here = Batches(array, geometry, np.arange(200), labels, **options)  # type: ignore[arg-type]
    there = Batches(array, geometry, np.arange(200), labels, device="cuda", **options)  # type: ignore[arg-type]
    for one, other in zip(here.epoch(1), list(there.epoch(1)), strict=True):
        assert torch.allclose(one[0], other[0].cpu(), atol=1e-6)
        assert torch.equal(one[1], other[1].cpu())
    moved = Batches(
        array, geometry, np.arange(200), labels, device="cuda", affine=0.5, colour=0.5, erasing=0.5, **options
    )  # type: ignore[arg-type]
    assert all(float(pictures.min()) >= 0 and float(pictures.max()) <= 1 for pictures, _ in moved.epoch(1))


def test_prefetched_batches_keep_order_and_errors_and_leave_no_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1, 5):
            made.append(number)
            yield number
        raise ValueError("the fifth")

    taken = []
    with pytest.raises(ValueError, match="the fifth"):
        taken.extend(prefetch_one(items()))
    assert taken == made == [1, 2, 3, 4]
    ahead = prefetch_one(items())
    assert next(ahead) == 1
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("workers", [2, 3, 9])
@pytest.mark.parametrize(
    "settings",
    [
        {"images_per_individual": 2, "flip": "new_individual", "affine": 0.5, "erasing": 0.5},
        {"images_per_individual": None, "flip": "augment", "colour": 0.5, "blur": 0.5},
    ],
    ids=["pk", "shuffled"],
)
def test_the_images_of_all_workers_together_are_the_batches_of_one(workers: int, settings: dict[str, object]) -> None:
    geometry = Geometry(16, 24, margin=2) if "affine" in settings else PLAIN
    array, labels = noisy(21, geometry), np.arange(21) % 4

    def batches(rank: int, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        options = {"batch_size": 10, "seed": 3, "rank": rank, "workers": workers} | settings
        return list(Batches(array, geometry, np.arange(21), labels, **options).epoch(1))  # type: ignore[arg-type]

    shares = [batches(rank, workers) for rank in range(workers)]
    for number, (pictures, wanted) in enumerate(batches(0, 1)):
        for rank, share in enumerate(shares):
            assert torch.allclose(share[number][0], pictures[rank::workers], atol=1e-6)
            assert torch.equal(share[number][1], wanted)


@pytest.mark.parametrize("flip", ["none", "augment", "new_individual"])
def test_the_features_of_all_workers_together_are_the_batches_of_one(flip: str) -> None:
    features, mirrored = np.random.default_rng(0).random((2, 11, 5), dtype=np.float32)

    def batches(rank: int, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        options = {"batch_size": 11, "images_per_individual": None, "flip": flip, "rank": rank, "workers": workers}
        labels = np.arange(11) % 3
        made = FeatureBatches(features, mirrored, PLAIN, np.arange(11), labels, **options)
        return list(made.epoch(1))

    ((whole, wanted),) = batches(0, 1)
    for rank in range(2):
        ((share, labels),) = batches(rank, 2)
        assert torch.equal(share, whole[rank::2])
        assert torch.equal(labels, wanted)
