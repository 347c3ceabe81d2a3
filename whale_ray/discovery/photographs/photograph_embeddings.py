"""Embeddings of the photographs of a discovery, kept in its folder: only new or changed photographs are embedded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from whale_ray.atomic_files import replaced_atomically
from whale_ray.data.catalog import Catalog
from whale_ray.data.image_io import VERSION, Geometry, fit_image
from whale_ray.device import available_cpus
from whale_ray.errors import DataError, ImageError
from whale_ray.file_errors import short_reason
from whale_ray.verbosity import track_steps

_BATCH = 32
_SAVED_EACH = 20  # batches


class Embedder(Protocol):
    """An encoder with its preprocessing."""

    @property
    def geometry(self) -> Geometry:
        """Size and fitting of the prepared photographs."""

    def embed(self, arrays: Sequence[np.ndarray], /) -> np.ndarray:
        """Return unit embeddings, float32, shape (N, D), of prepared photographs."""


@dataclass(frozen=True)
class EmbeddedPhotographs:
    """Embeddings of the photographs that can be decoded.

    Attributes:
        rows: Rows of the catalog, int64, shape (N,).
        vectors: Unit embeddings, float32, shape (N, D).
        undecodable: Reason by name of every other photograph.
        embedded: Number of photographs that this call embedded.
    """

    rows: np.ndarray
    vectors: np.ndarray
    undecodable: dict[str, str]
    embedded: int


def embed_photographs(
    catalog: Catalog, embedder: Embedder, *, model: str, path: Path, progress: bool = False
) -> EmbeddedPhotographs:
    """Return the embeddings of a catalog, from the file or computed into it.

    The file is saved during the work, so that an interrupted call goes on where it was.

    Args:
        catalog: The photographs.
        embedder: The encoder.
        model: Fingerprint of the encoder; embeddings of another one are computed again.
        path: File of the embeddings, .npz.
        progress: Show a progress bar.

    Raises:
        DataError: If no photograph can be decoded.
    """
    images = catalog.table["image"].tolist()
    keys = {image: _photograph_key(catalog, image, model) for image in images}
    kept = {key: vector for key, vector in _read_vectors(path).items() if key in set(keys.values())}
    wanted = [image for image in images if keys[image] not in kept]
    undecodable: dict[str, str] = {}
    starts = range(0, len(wanted), _BATCH)
    with ThreadPoolExecutor(available_cpus()) as pool:
        batches = _decoded_batches(pool, catalog, wanted, embedder.geometry, undecodable)
        tracked = track_steps(batches, "embedding photographs", progress=progress, total=len(starts))
        for count, (names, arrays) in enumerate(tracked, start=1):
            if arrays:
                vectors = np.asarray(embedder.embed(arrays)).astype(np.float16)
                kept |= {keys[name]: vector for name, vector in zip(names, vectors, strict=True)}
            if count % _SAVED_EACH == 0:
                _write_vectors(path, kept)
    if wanted:
        _write_vectors(path, kept)
    rows = [row for row, image in enumerate(images) if keys[image] in kept]
    if not rows:
        name, reason = next(iter(undecodable.items()), ("the folder", "it is empty"))
        raise DataError(f"a photograph must be decodable, but none is ({name}: {reason}). Name another folder")
    vectors = np.stack([kept[keys[images[row]]] for row in rows]).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return EmbeddedPhotographs(np.array(rows), vectors, undecodable, len(wanted) - len(undecodable))


def _photograph_key(catalog: Catalog, image: str, model: str) -> str:
    """Return what decides the embedding of a photograph: encoder, decoder, size and time of the file, name and box."""
    try:
        facts = os.stat(catalog.path(image))
        state = f"{facts.st_size} {facts.st_mtime_ns}"
    except OSError:
        state = "missing"
    return f"{model} {VERSION} {state} {catalog.box(image)} {image}"


def _decoded_batches(
    pool: ThreadPoolExecutor, catalog: Catalog, images: list[str], geometry: Geometry, undecodable: dict[str, str]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield names and arrays of each batch; the next batch is decoded while one is embedded."""
    waiting: list[tuple[str, np.ndarray | str]] = []
    starts = list(range(0, len(images), _BATCH))
    ahead = [pool.submit(_decode, catalog, image, geometry) for image in images[:_BATCH]]
    for start in starts:
        current = ahead
        ahead = [
            pool.submit(_decode, catalog, image, geometry) for image in images[start + _BATCH : start + 2 * _BATCH]
        ]
        waiting = [(image, one.result()) for image, one in zip(images[start : start + _BATCH], current, strict=True)]
        undecodable |= {image: found for image, found in waiting if isinstance(found, str)}
        good = [(image, found) for image, found in waiting if not isinstance(found, str)]
        yield [image for image, _ in good], [found for _, found in good]


def _decode(catalog: Catalog, image: str, geometry: Geometry) -> np.ndarray | str:
    """Return the prepared photograph, or the reason why it cannot be used."""
    try:
        return fit_image(catalog.decode(image), geometry, box=catalog.box(image))
    except (ImageError, DataError, OSError) as error:
        return short_reason(error)


def _read_vectors(path: Path) -> dict[str, np.ndarray]:
    """Return the vectors of a file by key; none if there is no file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))
    except (OSError, ValueError, KeyError, EOFError):
        return {}


def _write_vectors(path: Path, kept: dict[str, np.ndarray]) -> None:
    with replaced_atomically(path) as draft, draft.open("wb") as stream:
        vectors = np.stack(list(kept.values())) if kept else np.zeros((0, 0), np.float16)
        np.savez(stream, keys=np.array(list(kept), dtype=str), vectors=vectors, allow_pickle=False)
