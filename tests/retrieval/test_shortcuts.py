"""Shortcut audit: planted water is flagged, a clean set is not, and animals are told from their backgrounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from whale_ray.data.image_io import Geometry
from whale_ray.data.synthetic.fluke import draw_fluke
from whale_ray.data.synthetic.scene import draw_day, draw_viewpoint, photograph
from whale_ray.retrieval.shortcuts.animal_separation import BOX, GRABCUT, GREY, OTSU, separate_animal
from whale_ray.retrieval.shortcuts.separated_photographs import SeparatedPhotographs, separate_photograph
from whale_ray.retrieval.shortcuts.shortcut_scores import PARTS, ShortcutScores, shortcut_scores

ANIMALS, PHOTOS, SIZE = 12, 4, (48, 96)
GEOMETRY = Geometry(48, 96)
Encoder = Callable[[Sequence[np.ndarray]], np.ndarray]


def unit(vectors: np.ndarray) -> np.ndarray:
    centered = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-9), np.float32)


def color_encoder(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Encode the mean color of sixteen cells."""
    cells = np.stack(pictures).reshape(len(pictures), 4, 12, 4, 24, 3).mean(axis=(2, 4))
    return unit(cells.reshape(len(pictures), -1) - GREY)


def animal_encoder(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Encode the grey pixels of the middle, coarsely."""
    middle = np.stack(pictures).mean(axis=3)[:, 12:36, 24:72]
    return unit(middle.reshape(len(pictures), 12, 2, 24, 2).mean(axis=(2, 4)).reshape(len(pictures), -1))


def drawn(animal: int, photo: int, *, own_water: bool) -> Image.Image:
    """Return a photograph of a drawn animal: another day and viewpoint each, of its own water color if asked."""
    rng = np.random.default_rng([7, animal, photo])
    day = draw_day(rng, 0.1)
    if own_water:
        hue = 2 * np.pi * animal / ANIMALS
        water = 110 + 70 * np.cos(hue + np.array([0.0, 2.1, 4.2]))
        day = dataclasses.replace(day, water=water.astype(np.float32), horizon=0.0, haze=0.0, grey=False)
    fluke = draw_fluke(np.random.default_rng([3, animal]), scale=40)
    view = draw_viewpoint(rng, 0.1)
    return photograph(rng, fluke, day=day, view=view, size=SIZE, difficulty=0.1)


@pytest.fixture(scope="module")
def photographs() -> dict[bool, dict[str, Image.Image]]:
    return {
        own_water: {
            f"{animal}_{photo}": drawn(animal, photo, own_water=own_water)
            for animal in range(ANIMALS)
            for photo in range(PHOTOS)
        }
        for own_water in (False, True)
    }


def audit(photographs: dict[str, Image.Image], encoder: Encoder) -> tuple[ShortcutScores, SeparatedPhotographs]:
    seen = SeparatedPhotographs(encoder, GEOMETRY)
    for image, picture in photographs.items():
        if (found := separate_photograph(picture, GEOMETRY)) is not None:
            seen.add(image, found)
    names = np.array([image.split("_") for image in seen.images])
    scores = shortcut_scores(
        seen.vectors(),
        individuals=names[:, 0],
        groups=np.full(len(names), ""),
        is_query=np.isin(names[:, 1], ["0", "1"]),
    )
    assert scores is not None
    return scores, seen


def test_water_of_its_own_for_each_animal_is_flagged(photographs: dict[bool, dict[str, Image.Image]]) -> None:
    scores, seen = audit(photographs[True], color_encoder)
    assert len(seen.images) >= 40
    assert scores.recall["background"] > 0.5
    assert scores.flagged is True


def test_a_clean_set_is_not_flagged(photographs: dict[bool, dict[str, Image.Image]]) -> None:
    scores, seen = audit(photographs[False], color_encoder)
    assert len(seen.images) >= 40
    assert scores.flagged is False


def test_photographs_are_separated_alike_on_several_threads(photographs: dict[bool, dict[str, Image.Image]]) -> None:
    pictures = [*photographs[False].values()]
    alone = [separate_photograph(picture, GEOMETRY) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda picture: separate_photograph(picture, GEOMETRY), pictures))
    assert sum(one is not None for one in alone) >= 40
    for one, other in zip(alone, together, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.source == other.source
            assert all((one.parts[part] == other.parts[part]).all() for part in PARTS)


def test_an_encoder_that_sees_the_animal_is_not_flagged_on_planted_water(
    photographs: dict[bool, dict[str, Image.Image]],
) -> None:
    scores, _ = audit(photographs[True], animal_encoder)
    assert scores.flagged is False
    assert scores.recall["animal"] > scores.recall["background"]


def scored(hits: np.ndarray, *, groups: np.ndarray | None = None, individuals: int = 10) -> ShortcutScores | None:
    """Return the scores of three queries an individual; `hits` (3, Q): whether a query is nearest to its answer."""
    names = np.repeat(np.arange(individuals), 3)
    basis = np.eye(individuals)
    answers = [np.where(row, names, (names + 1) % individuals) for row in hits]
    vectors = {part: np.concatenate([basis[given], basis]) for part, given in zip(PARTS, answers, strict=True)}
    rows = np.concatenate([names, np.arange(individuals)])
    return shortcut_scores(
        vectors,
        individuals=rows.astype(str),
        groups=np.full(len(rows), "") if groups is None else groups,
        is_query=np.arange(len(rows)) < len(names),
    )


@pytest.mark.parametrize(
    ("whole", "background", "flagged"),
    [
        (30, 30, True),  # the background explains everything
        (30, 15, True),
        (30, 6, False),  # beyond chance, but a small share
        (30, 3, False),  # chance
        (12, 6, False),  # within noise of chance
        (3, 30, True),  # the whole is worse than the background
    ],
)
def test_the_flag_needs_recall_beyond_noise_and_a_share(whole: int, background: int, flagged: bool) -> None:
    order = np.arange(30).reshape(10, 3).T.ravel().argsort()  # hits are spread over the individuals
    hits = np.stack([order < whole, order < whole, order < background])
    scores = scored(hits)
    assert scores is not None
    assert scores.recall == {"whole": whole / 30, "animal": whole / 30, "background": background / 30}
    assert scores.chance == pytest.approx(0.1)
    assert scores.above_chance[0] == pytest.approx(background / 30 - 0.1)
    assert scores.below_animal[0] == pytest.approx((whole - background) / 30)
    assert scores.flagged is flagged


@pytest.mark.parametrize("individuals", [3, 6])
def test_too_few_queries_or_individuals_give_no_verdict(individuals: int) -> None:
    scores = scored(np.ones((3, 3 * individuals), dtype=bool), individuals=individuals)
    assert scores is not None
    assert scores.flagged is None


def test_photographs_of_the_own_encounter_do_not_answer() -> None:
    names = np.repeat(np.arange(10), 3)
    groups = np.concatenate([names, np.arange(10)]).astype(str)
    assert scored(np.ones((3, 30), dtype=bool), groups=groups) is None
    groups[:27] = ""  # the last individual has answers of its encounter only
    scores = scored(np.ones((3, 30), dtype=bool), groups=groups)
    assert scores is not None
    assert scores.queries == 27


def test_equal_embeddings_score_as_chance() -> None:
    vectors = dict.fromkeys(PARTS, np.ones((40, 4)) / 2)
    rows = np.concatenate([np.repeat(np.arange(10), 3), np.arange(10)])
    scores = shortcut_scores(vectors, individuals=rows.astype(str), groups=np.full(40, ""), is_query=np.arange(40) < 30)
    assert scores is not None
    assert scores.recall["whole"] == pytest.approx(scores.chance)
    assert (scores.share, scores.flagged) == (None, False)


def dark_animal(noise: float = 8.0) -> np.ndarray:
    """Return a picture of an ellipse on water, uint8, (60, 120, 3)."""
    down, across = np.mgrid[:60, :120]
    ellipse = ((down - 30) / 16) ** 2 + ((across - 60) / 34) ** 2 < 1
    picture = np.where(ellipse[..., None], (30, 25, 20), (90, 130, 160)).astype(np.float64)
    return np.clip(picture + noise * np.random.default_rng(0).normal(size=picture.shape), 0, 255).astype(np.uint8)


def test_the_animal_and_the_background_are_separated() -> None:
    picture = dark_animal()
    found = separate_animal(picture)
    assert found is not None
    assert found.source in (GRABCUT, OTSU)
    assert (found.animal[:8] == GREY).all()
    assert (found.animal[25:35, 40:80] == picture[25:35, 40:80]).all()
    assert (found.background[:5] == picture[:5]).all()
    hidden = found.background[20:40, 30:90].reshape(-1, 3)
    assert (hidden == hidden[0]).all()
    np.testing.assert_allclose(hidden[0], (90, 130, 160), atol=12)


def test_the_hidden_area_is_a_rectangle_that_covers_the_animal() -> None:
    picture = dark_animal()
    found = separate_animal(picture)
    assert found is not None
    rows, columns = (np.flatnonzero((found.background != picture).any(axis=(2, axis))) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (pytest.approx(11, abs=4), pytest.approx(48, abs=4))
    inside = found.background[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
    assert (inside == inside[0]).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_color_is_not_separated(value: int) -> None:
    assert separate_animal(np.full((60, 120, 3), value, np.uint8)) is None


@pytest.mark.parametrize("shape", [(1, 1), (4, 40), (9, 9)])
def test_a_tiny_picture_gives_a_result_or_none(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert separate_animal(noise) is None or shape == (9, 9)


def test_a_box_with_background_around_it_is_used() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    found = separate_animal(picture, box=(30, 15, 90, 45))
    assert found is not None
    assert found.source == BOX
    assert (found.animal[15:45, 30:90] == picture[15:45, 30:90]).all()
    assert (found.animal[:15] == GREY).all()


def test_a_box_that_fills_the_picture_is_searched_for_the_animal() -> None:
    found = separate_animal(dark_animal(), box=(0, 0, 120, 60))
    assert found is not None
    assert found.source != BOX


def test_padding_is_neither_animal_nor_background() -> None:
    padded = np.full((120, 120, 3), 128, np.uint8)
    padded[30:90] = dark_animal()
    found = separate_animal(padded, content=(0, 30, 120, 90))
    assert found is not None
    assert (found.background[:30] == GREY).all()
    hidden = found.background[55:65, 50:70].reshape(-1, 3)
    np.testing.assert_allclose(hidden[0], (90, 130, 160), atol=12)
