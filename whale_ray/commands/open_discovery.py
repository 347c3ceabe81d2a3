"""Steps of the command `discover` that open a session: encoder, embeddings, keypoints, calibration, clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import typer

from whale_ray.data.catalog import Catalog
from whale_ray.discovery.pair_probabilities import DENSE_UP_TO
from whale_ray.discovery.photograph_grouper import NamedPhotographs, PhotographGrouper, calibrate_pairs
from whale_ray.discovery.photographs.discovery_encoder import (
    bundle_fingerprint,
    is_trained_on_gallery,
    open_frozen_encoder,
)
from whale_ray.discovery.photographs.keypoint_scores import pair_scores, score_keypoints
from whale_ray.discovery.photographs.photograph_embeddings import EmbeddedPhotographs, Embedder, embed_photographs
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
from whale_ray.discovery.records.result_tables import write_photographs
from whale_ray.discovery.session import DiscoverySession
from whale_ray.inference.predictor import Bundle
from whale_ray.verbosity import is_quiet


@dataclass(frozen=True)
class DiscoveryEncoder:
    """Encoder of a discovery.

    Attributes:
        embedder: The encoder.
        fingerprint: Text that changes with the embeddings.
        shown: Its name, for a message.
        bundle: The bundle that it belongs to, if any.
    """

    embedder: Embedder
    fingerprint: str
    shown: str
    bundle: Bundle | None = None


def open_encoder(bundle: str | None, encoder: str, weights: str) -> DiscoveryEncoder:
    """Return the encoder of a bundle, or a frozen one with published weights.

    Args:
        bundle: The bundle: a folder, hf://… or s3://…; None for the frozen encoder.
        encoder: Name of the frozen encoder, as `model.encoder` of a sweep.
        weights: `pretrained` or a file of weights.

    Raises:
        InputError: If the bundle or the encoder cannot be used.
    """
    if bundle is None:
        frozen, fingerprint = open_frozen_encoder(encoder, weights=weights)
        return DiscoveryEncoder(frozen, fingerprint, f"{encoder} (frozen)")
    loaded = Bundle.load(bundle)
    return DiscoveryEncoder(loaded, bundle_fingerprint(loaded), loaded.id, loaded)


def open_session(
    folder: DiscoveryFolder, catalog: Catalog, encoder: DiscoveryEncoder, *, local: str, singles: str
) -> DiscoverySession:
    """Embed, compare and cluster the photographs, with a line for each step.

    Args:
        folder: The open folder.
        catalog: The photographs.
        encoder: The encoder.
        local: Keypoints that are compared as well, `none`, `sift` or `orb`.
        singles: Treatment of photographs alone in their cluster, one of `result_tables.SINGLES`.

    Raises:
        DataError: If no photograph can be decoded.
    """
    say: Callable[[str], None] = (lambda text: None) if is_quiet() else typer.echo
    say(f"decoding and embedding with {encoder.shown} …")
    found = embed_photographs(
        catalog, encoder.embedder, model=encoder.fingerprint, path=folder.embeddings, progress=not is_quiet()
    )
    say(f"  {found.embedded} embedded now, {len(found.rows) - found.embedded} already in {folder.embeddings}")
    for name, reason in found.undecodable.items():
        typer.echo(f"{name} cannot be decoded and is left out: {reason}", err=True)
    write_photographs(folder, catalog, found.undecodable)
    rows = catalog.table.iloc[found.rows]
    individuals = rows["individual"].where(rows["individual"] != catalog.unknown_label, "").tolist()
    scores = _keypoint_scores(folder, catalog, found, local, say)
    say("comparing all pairs …")
    named = _named_sets(found.vectors, individuals, encoder.bundle, set(rows["image"]), local, scores)
    calibration = calibrate_pairs(found.vectors, named, local_scores=scores)
    if calibration.source:
        say(f"  probabilities and threshold are learned on {calibration.source}")
    else:
        say("  too few names of other animals to learn from: probabilities are a guess. Name some with --labels")
    if scores is not None and not calibration.uses_keypoints:
        say("  keypoints are not used: those of the named photographs are unknown")
    say("clustering …")
    group = PhotographGrouper(found.vectors, individuals, calibration, local_scores=scores)
    return DiscoverySession(folder, catalog, rows["image"].tolist(), group, singles=singles)


def _keypoint_scores(
    folder: DiscoveryFolder, catalog: Catalog, found: EmbeddedPhotographs, local: str, say: Callable[[str], None]
) -> np.ndarray | None:
    """Return the keypoint score of each photograph against each other; None if keypoints are not compared."""
    if local == "none":
        return None
    if len(found.rows) > DENSE_UP_TO:
        say(f"keypoints are not compared: there are more than {DENSE_UP_TO:,} photographs")
        return None
    say(f"comparing keypoints ({local}) …")
    return score_keypoints(catalog, found.rows, kind=local, folder=folder.keypoints, progress=not is_quiet())


def _named_sets(
    vectors: np.ndarray,
    individuals: list[str],
    bundle: Bundle | None,
    images: set[str],
    local: str,
    scores: np.ndarray | None,
) -> list[NamedPhotographs]:
    """Return the named photographs that pairs can be calibrated on: the labels first, then the bundle's gallery."""
    names = np.array(individuals, dtype=str)
    is_named = names != ""
    own = None if scores is None else scores[np.ix_(is_named, is_named)]
    sets = [NamedPhotographs("the named photographs", vectors[is_named], names[is_named], own)]
    if bundle is not None and not is_trained_on_gallery(bundle):
        others = np.array([image not in images for image in bundle.images], dtype=bool)
        gallery = np.asarray(bundle.contents.gallery, dtype=np.float32)[others]
        kept = bundle.contents.keypoints
        known = None
        if kept is not None and kept.gallery.kind == local and scores is not None:
            known = pair_scores(kept.gallery.subset(np.flatnonzero(others)), progress=not is_quiet())
        whose = np.array(bundle.individuals, dtype=str)[others]
        sets.append(NamedPhotographs(f"the gallery of {bundle.id}", gallery, whose, known))
    return sets
