"""Small bundles with local features, and pictures with many corners, for the tests of the service."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from drawn_photographs import IMAGES_EACH, INDIVIDUALS, encode
from PIL import Image
from services import contents

from whale_ray.data.image_io import decode_image
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.keypoints.keypoint_files import KeypointFiles, features_of_pictures
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.fusion.candidate_features import FEATURES, MATCHER_FEATURES
from whale_ray.retrieval.local.learned.network_registry import features_kind, matcher_file, matcher_of, network_file
from whale_ray.retrieval.local.local_features import LOCAL_KINDS

WEIGHTS = dict.fromkeys(FEATURES, 0.0) | {"nearest_value": 1.0, "individual_value": 2.0, "inliers_value": 0.5}


def spotted(individual: int, view: int) -> Image.Image:
    """A picture with many corners, 192 x 128 pixels, moved a little and noisy in each view."""
    spots = np.random.default_rng(individual).uniform(0, 255, (17, 25, 3)).astype(np.uint8)
    picture = (
        Image.fromarray(spots).resize((200, 136), Image.Resampling.BICUBIC).crop((view, view, view + 192, view + 128))
    )
    noise = np.random.default_rng(1000 + 10 * individual + view).normal(0, 3, (128, 192, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def write_local_bundle(folder: Path, kind: str, *, shortlist: int = 0, **changes: Any) -> Path:
    """A bundle whose gallery shows spotted pictures, with their local features unless `kind` is none.

    Networks of the kind are registered.
    """
    whole, features = contents(), features_kind(kind)
    pictures = [
        encode(spotted(number, view), "PNG") for number in range(len(INDIVIDUALS)) for view in range(IMAGES_EACH)
    ]
    plain = Bundle(whole)
    manifest = whole.manifest | {"id": f"{features}-00000000", "threshold": 0.1} | changes
    keypoints = None
    if kind != "none":
        weights = WEIGHTS
        if matcher_of(kind) is not None:
            weights = dict.fromkeys(MATCHER_FEATURES, 0.0) | WEIGHTS | {"confidence_value": 0.25}
        slopes = dict.fromkeys(weights, 0.0) | {"intercept": 0.1, "individual_value": 0.2}
        manifest |= {
            "retrieval": whole.manifest["retrieval"] | {"local": kind},
            "fusion": {"intercept": -2.0, "weights": weights, "shortlist": shortlist, "slopes": slopes},
        }
        networks = () if kind in LOCAL_KINDS else (network_file(kind), matcher_file(kind))
        stores = [features_of_pictures(images, features) for images in (pictures, whole.golden)]
        keypoints = KeypointFiles(stores[0], stores[1], *networks)
    thumbnails = dict(enumerate(encode(decode_image(one), "JPEG") for one in pictures))
    gallery = plain.embed([plain.prepare(picture) for picture in pictures]).astype(np.float16)
    return write_bundle(
        dataclasses.replace(whole, manifest=manifest, gallery=gallery, keypoints=keypoints, thumbnails=thumbnails),
        folder / f"bundle-{features}",
    )
