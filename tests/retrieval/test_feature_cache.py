"""Feature cache of frozen encoders: equal to the features, computed once, and used to train a head."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from whale_ray.data.batches import Batches, FeatureBatches
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.learning.encoders.registry import Encoder, build_encoder
from whale_ray.retrieval.embed import embed
from whale_ray.retrieval.feature_cache import embed_features, frozen_features

GEOMETRY = Geometry(32, 48, "pad", 0.125)


def pixels_of(count: int = 11, fingerprint: str = "one") -> DecodedImages:
    array = np.random.default_rng(0).integers(0, 256, (count, *GEOMETRY.stored, 3), dtype=np.uint8)
    return DecodedImages(
        array=array,
        small=np.zeros((count, 16, 16), np.uint8),
        grey=np.zeros((count, 64, 64), np.uint8),
        grey_sizes=np.zeros((count, 2), np.uint8),
        geometry=GEOMETRY,
        health=pd.DataFrame(),
        decoded=0,
        fingerprint=fingerprint,
    )


def frozen(pool: str = "gem", neck: str = "linear", seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    size = None if neck == "none" else 8
    return build_encoder("tiny", embedding_size=size, pool=pool, neck=neck, freeze="trunk", image_size=(32, 48))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("pool", "neck"), [("gem", "linear"), ("avg", "none"), ("avg", "bnneck")])
def test_vectors_from_features_are_those_from_pixels(tmp_path: Path, pool: str, neck: str, flipped: bool) -> None:
    encoder, pixels = frozen(pool, neck), pixels_of()
    features = frozen_features(encoder, pixels, flipped=flipped, cache=tmp_path, batch_size=4)
    rows = np.array([7, 2, 2, 10])
    expected = embed(encoder, pixels.array, GEOMETRY, rows, flipped=flipped, batch_size=3)
    np.testing.assert_allclose(embed_features(encoder, features[rows]), expected, atol=2e-3)


def test_an_encoder_with_the_same_weights_and_another_config_has_features_of_its_own(tmp_path: Path) -> None:
    batches: list[int] = []
    options = {"flipped": False, "cache": tmp_path, "on_batch": lambda: batches.append(1)}
    encoder = frozen()
    for heads in (2, 4):  # of the attention, which no tensor tells
        encoder.recipe["config"] = {"num_heads": heads}
        frozen_features(encoder, pixels_of(), **options)  # type: ignore[arg-type]
    once, twice = len(batches) // 2, len(batches)
    frozen_features(encoder, pixels_of(), **options)  # type: ignore[arg-type]
    assert once > 0
    assert len(batches) == twice


def test_features_are_computed_once_per_backbone_whatever_its_head(tmp_path: Path) -> None:
    batches: list[int] = []
    options = {"flipped": False, "cache": tmp_path, "on_batch": lambda: batches.append(1)}
    frozen_features(frozen(), pixels_of(), **options)  # type: ignore[arg-type]
    done = len(batches)
    assert done > 0
    again = frozen()
    again.head.neck = torch.nn.Identity()
    frozen_features(again, pixels_of(), **options)  # type: ignore[arg-type]
    assert len(batches) == done


@pytest.mark.parametrize("change", ["weights", "pool", "view", "photographs"])
def test_every_input_of_the_features_is_part_of_the_cache_key(tmp_path: Path, change: str) -> None:
    frozen_features(frozen(), pixels_of(), flipped=False, cache=tmp_path)
    encoder = frozen(pool="avg" if change == "pool" else "gem", seed=int(change == "weights"))
    pixels = pixels_of(fingerprint="two" if change == "photographs" else "one")
    frozen_features(encoder, pixels, flipped=change == "view", cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_of_several_processes_one_computes_the_features(tmp_path: Path) -> None:
    at_work: list[str] = []
    encoders = {name: frozen() for name in ("a", "b")}

    def take(name: str) -> None:
        def note() -> None:
            at_work.append(name)

        frozen_features(encoders[name], pixels_of(), flipped=False, cache=tmp_path, batch_size=1, on_batch=note)

    threads = [threading.Thread(target=take, args=(name,), daemon=True) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(at_work.count(name) >= 11 for name in ("a", "b")) == [False, True]


@pytest.mark.parametrize("flip", ["none", "augment", "new_individual"])
def test_batches_of_features_are_those_of_their_pictures(tmp_path: Path, flip: str) -> None:
    encoder, pixels = frozen(), pixels_of()
    plain, mirrored = (frozen_features(encoder, pixels, flipped=side, cache=tmp_path) for side in (False, True))
    rows, labels = np.arange(2, 11), np.array([0, 0, 1, 1, 2, 2, -1, -1, 2])
    options = {"batch_size": 4, "images_per_individual": 2, "flip": flip, "seed": 3}
    pictured = Batches(pixels.array, GEOMETRY, rows, labels, **options)  # type: ignore[arg-type]
    known = FeatureBatches(plain, mirrored, GEOMETRY, rows, labels, **options)
    for (pictures, labels), (features, names) in zip(pictured.epoch(1), known.epoch(1), strict=True):
        assert torch.equal(labels, names)
        with torch.inference_mode():
            torch.testing.assert_close(encoder.eval().features(pictures), features, atol=1e-4, rtol=1e-3)


def resnet(pool: str, layers: int = 1) -> Encoder:
    torch.manual_seed(0)
    options = {"embedding_size": 8, "weights": "random", "freeze": "trunk", "image_size": (32, 48)}
    return build_encoder("torchvision:resnet18", pool=pool, layers=layers, **options)  # type: ignore[arg-type]


GRID = [(pool, layers) for pool in ("avg", "gem") for layers in (1, 2)]
BESIDE = [*GRID, ("cls", 1), ("auto", 1), ("avg", 8)]  # no class token; the average; not so many maps


@pytest.mark.parametrize(("pool", "layers"), GRID)
def test_one_pass_computes_the_features_of_all_poolings(tmp_path: Path, pool: str, layers: int) -> None:
    def count() -> None:
        batches.append(1)

    batches: list[int] = []
    pixels, options = pixels_of(), {"flipped": False, "batch_size": 4, "on_batch": count}
    frozen_features(resnet("gem"), pixels, cache=tmp_path / "all", poolings=BESIDE, **options)  # type: ignore[arg-type]
    assert len(batches) == 3
    encoder = resnet(pool, layers)
    shared = frozen_features(encoder, pixels, cache=tmp_path / "all", poolings=BESIDE, **options)  # type: ignore[arg-type]
    assert len(batches) == 3
    alone = frozen_features(encoder, pixels, cache=tmp_path / "alone", **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(shared, alone)
    assert len(list((tmp_path / "all").glob("*.npy"))) == len(GRID)
