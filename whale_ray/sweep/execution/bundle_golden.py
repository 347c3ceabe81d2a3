"""Golden images of a bundle: photographs far apart, with the embeddings and keypoints expected of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from whale_ray.errors import BundleError
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.golden_images import GOLDEN_IMAGES, far_apart, largest_tolerance
from whale_ray.inference.keypoints.keypoint_files import features_of_pictures
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.execution.bundle_pictures import golden_pictures
from whale_ray.sweep.planning.dataset import Dataset


def with_golden_images(contents: BundleContents, dataset: Dataset) -> BundleContents:
    """Return the contents with golden images, their embeddings and keypoints, and the measured tolerance.

    Args:
        contents: Contents without golden images.
        dataset: Photographs of the sweep.

    Raises:
        BundleError: If the encoder has collapsed: it cannot tell its golden images apart.
    """
    rows = far_apart(contents.gallery.astype(np.float32), GOLDEN_IMAGES)
    golden = golden_pictures(dataset, contents.table["image"].iloc[rows])
    if contents.keypoints is not None:
        features = features_of_pictures(golden, contents.keypoints.gallery.kind)
        contents = dataclasses.replace(contents, keypoints=contents.keypoints._replace(golden=features))
    bundle = Bundle(dataclasses.replace(contents, golden=golden))
    together = bundle.embed([bundle.prepare(picture) for picture in golden])
    noise = bundle.golden_difference(together)
    most = largest_tolerance(together)
    tolerance = min(max(4.0 * noise, 1e-4), most)
    if tolerance <= noise:
        raise BundleError(
            f"the encoder must tell its golden images apart, but the nearest two of trial {contents.manifest['trial']} "
            f"differ by {10 * most:.2g} cosine distance and one embedding by {noise:.2g}. It has collapsed: train it "
            "longer, or with a smaller learning rate"
        )
    manifest = contents.manifest | {"tolerance": tolerance}
    return dataclasses.replace(contents, manifest=manifest, golden=golden, golden_vectors=together)
