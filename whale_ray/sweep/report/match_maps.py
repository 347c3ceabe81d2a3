"""Occlusion maps of matches by the deployed bundle, kept in maps.json of the run folder."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whale_ray.atomic_files import write_atomically
from whale_ray.data.catalog import Catalog
from whale_ray.data.image_io import Box, fit_image, visible_box
from whale_ray.errors import WhaleRayError
from whale_ray.retrieval.occlusion_maps import OcclusionVectors, embed_occluded
from whale_ray.sweep.run_folder.records import Record

if TYPE_CHECKING:
    from whale_ray.inference.predictor import Bundle

Pair = tuple[str, str]
MOST_SECONDS = 6.0
_SECONDS_IF_THOROUGH = 240.0
_VERSION = 1


@dataclass(frozen=True)
class MatchMap:
    """Loss of the cosine between two photographs when each cell of the first is covered.

    Attributes:
        cosine: Cosine with nothing covered.
        losses: Loss by cell, shape (rows, columns).
        frame: The area that the cells divide, in pixels of the upright photograph.
    """

    cosine: float
    losses: np.ndarray
    frame: Box


@dataclass(frozen=True)
class MatchMaps:
    """Maps by pair (photograph, other photograph).

    Attributes:
        found: The maps.
        reason: Why maps are missing; "" if none is.
        seconds: Seconds spent.
    """

    found: Mapping[Pair, MatchMap]
    reason: str
    seconds: float


def map_matches(
    run: Path,
    record: Record,
    pairs: Iterable[Pair],
    catalog: Catalog,
    *,
    thorough: bool = False,
    load: Callable[[], Bundle] | None = None,
) -> MatchMaps:
    """Return the map of each pair's first photograph, by the bundle of the run if it is of that trial.

    Existing maps are read. A call spends `MOST_SECONDS`; the next call continues.

    Args:
        run: The run folder.
        record: The trial.
        pairs: Pairs of rows, by their identifiers.
        catalog: The photographs.
        thorough: Spend four minutes.
        load: Returns the run's bundle; None loads it here.
    """
    wanted = list(dict.fromkeys(pairs))
    manifest = run / "best" / "bundle.json"
    if not manifest.is_file():
        return MatchMaps({}, "the bundle, which they are made with, is made when the sweep ends", 0.0)
    kept = _Kept(run / "maps.json", manifest)
    if kept.trial != record.trial:
        return MatchMaps({}, f"the bundle is of trial {kept.trial}, since this one could not become one", 0.0)
    missing = [pair for pair in wanted if pair not in kept.found]
    reason = ""
    try:
        if missing:
            reason = _make(run, missing, catalog, kept, _SECONDS_IF_THOROUGH if thorough else MOST_SECONDS, load)
    except (WhaleRayError, OSError) as error:
        reason = str(error)
    return MatchMaps({pair: kept.found[pair] for pair in wanted if pair in kept.found}, reason, kept.seconds)


def _make(
    run: Path,
    missing: Sequence[Pair],
    catalog: Catalog,
    kept: _Kept,
    most: float,
    load: Callable[[], Bundle] | None,
) -> str:
    from whale_ray.inference.predictor import Bundle

    started = time.monotonic()
    sight = _Sight(load() if load else Bundle.load(run / "best"), catalog)
    left = 0
    for pair in missing:
        if time.monotonic() - started > most:
            left += 1
        else:
            kept.found[pair] = sight.map_of(*pair)
    kept.seconds += time.monotonic() - started
    kept.write()
    if not left:
        return ""
    command = f"whale-ray report {shlex.quote(str(run))} --thorough"
    return f"{left} maps are left, since making them took {most:.0f} s: `{command}` makes the next"


class _Sight:
    """A bundle and the photographs it embeds, each covered once."""

    def __init__(self, bundle: Bundle, catalog: Catalog) -> None:
        self.bundle, self.catalog = bundle, catalog
        self.covered = lru_cache(maxsize=8)(self._covered)

    def map_of(self, image: str, other: str) -> MatchMap:
        """Return the occlusion map of a photograph for its match with another one.

        Args:
            image: Photograph that is covered region by region.
            other: Photograph whose cosine to it is measured.
        """
        (seen, frame), (against, _) = self.covered(image), self.covered(other)
        return MatchMap(float(seen.whole @ against.whole), seen.losses(against.whole), frame)

    def _covered(self, image: str) -> tuple[OcclusionVectors, Box]:
        picture, box, geometry = self.catalog.decode(image), self.catalog.box(image), self.bundle.geometry
        covered = embed_occluded(fit_image(picture, geometry, box=box), geometry, self.bundle.embed)
        return covered, visible_box(picture.size, geometry, box=box)


class _Kept:
    """maps.json: the maps made so far with this bundle; those of another one are forgotten."""

    def __init__(self, path: Path, manifest: Path) -> None:
        written = json.loads(manifest.read_text())
        self.path, self.bundle, self.trial = path, written["id"], written["trial"]
        self.found: dict[Pair, MatchMap] = {}
        self.seconds = 0.0
        try:
            held = json.loads(path.read_text()) if path.exists() else {}
            if (held.get("version"), held.get("bundle")) == (_VERSION, self.bundle):
                self.found = dict(_read(held["maps"]))
                self.seconds = float(held["seconds"])
        except (ValueError, KeyError, TypeError):  # a file that is damaged is made again
            self.found = {}

    def write(self) -> None:
        """Write all maps to the file atomically."""
        maps = [
            {"image": image, "other": other, "cosine": one.cosine, "losses": one.losses.tolist(), "frame": one.frame}
            for (image, other), one in self.found.items()
        ]
        held = {"version": _VERSION, "bundle": self.bundle, "seconds": self.seconds, "maps": maps}
        write_atomically(self.path, json.dumps(held))


def _read(maps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Pair, MatchMap]]:
    for one in maps:
        left, top, right, bottom = map(float, one["frame"])
        losses = np.array(one["losses"], dtype=np.float64)
        yield (one["image"], one["other"]), MatchMap(float(one["cosine"]), losses, (left, top, right, bottom))
