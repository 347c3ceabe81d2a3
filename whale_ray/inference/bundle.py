"""Bundle files: reading and writing the folder that is deployed, with a hash of every file.

Nothing in a bundle is pickled (JSON, safetensors, ONNX, plain NumPy arrays, CSV, images), so that a bundle from a
stranger executes nothing.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.errors import BundleError
from whale_ray.inference.bundle_contents import BundleContents, ExamplePhoto
from whale_ray.inference.bundle_files import check_files, file_hashes, npy_bytes, refuse_lfs_pointers
from whale_ray.inference.keypoints.keypoint_files import KeypointFiles, read_keypoint_files
from whale_ray.inference.model_card import model_card
from whale_ray.retrieval.search.proxy_classifier import ClassProxies

FORMAT_VERSION = 1
MANIFEST, _INT8 = "bundle.json", "encoder.int8.onnx"
_NEEDED = (
    "id",
    "settings",
    "preprocessing",
    "encoder",
    "embedding_size",
    "retrieval",
    "threshold",
    "tolerance",
    "calibration",
    "unknown_label",
    "scores",
    "data_fingerprint",
    "files",
)
_LIBRARIES = (
    "whale-ray",
    "torch",
    "torchvision",
    "transformers",
    "faiss-cpu",
    "opencv-python-headless",
    "numpy",
    "pillow",
)


def write_bundle(contents: BundleContents, folder: Path) -> Path:
    """Write a bundle, complete or not at all, and return its path.

    Args:
        contents: The contents.
        folder: The folder, which must not exist.

    Raises:
        BundleError: If the folder exists: bundles are immutable.
    """
    if folder.exists():
        raise BundleError(f"a bundle is never overwritten, but {folder} exists. Choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in _files(contents):
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(data)
        if contents.keypoints is not None:
            contents.keypoints.write(draft)
        manifest = {
            "format": FORMAT_VERSION,
            **contents.manifest,
            "libraries": {name: version(name) for name in _LIBRARIES},
            "files": file_hashes(draft),
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n")
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def read_bundle(folder: Path) -> BundleContents:
    """Return the contents of a bundle after checking every file against its hash.

    Raises:
        BundleError: With each file that is missing, damaged or unexpected.
    """
    from safetensors import SafetensorError

    manifest = read_manifest(folder)
    try:
        return _contents(folder, manifest)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder} cannot be read as a bundle: {error}. Make the bundle again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return bundle.json of the bundle at `folder`, every file checked against its hash, without reading the weights.

    Raises:
        BundleError: Naming each file that is missing, damaged or foreign.
    """
    manifest = _manifest(folder)
    check_files(folder, manifest["files"])
    return manifest


def read_gallery_table(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return bundle.json and gallery.csv of the bundle at `folder`, without reading the weights.

    Raises:
        BundleError: Naming each file that is missing, damaged or foreign.
    """
    return read_manifest(folder), _gallery_table(folder)


def _gallery_table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "gallery.csv", dtype=str, keep_default_na=False)


def _contents(folder: Path, manifest: dict[str, Any]) -> BundleContents:
    from safetensors.torch import load_file

    table = _gallery_table(folder)
    gallery = np.load(folder / "gallery.npy", allow_pickle=False)
    wanted = (len(table), manifest["embedding_size"])
    if gallery.shape != wanted:
        raise ValueError(f"gallery.npy must be {wanted}, a row a row of gallery.csv, but is {gallery.shape}")
    return BundleContents(
        manifest=manifest,
        weights=load_file(folder / "encoder.safetensors"),
        gallery=gallery,
        table=table,
        golden=tuple((folder / name).read_bytes() for name in _listed(manifest, "golden/*.png")),
        golden_vectors=np.load(folder / "golden" / "embeddings.npy", allow_pickle=False),
        thumbnails={
            int(Path(name).stem): (folder / name).read_bytes() for name in _listed(manifest, "thumbnails/*.jpg")
        },
        examples=_examples(folder / "examples"),
        proxies=_proxies(folder, manifest),
        keypoints=_keypoints(folder, manifest, rows=len(table)),
        cohort=_cohort(folder, manifest),
        int8=(folder / _INT8).read_bytes() if _INT8 in manifest["files"] else b"",
    )


def _listed(manifest: Mapping[str, Any], pattern: str) -> list[str]:
    """Return the listed files that match a pattern; others, such as `._00.png` of macOS, are ignored."""
    return sorted(fnmatch.filter(manifest["files"], pattern))


def _proxies(folder: Path, manifest: dict[str, Any]) -> ClassProxies | None:
    if not manifest["retrieval"].get("classifier_weight"):
        return None
    proxies = np.load(folder / "proxies.npy", allow_pickle=False)
    names = pd.read_csv(folder / "proxies.csv", dtype=str, keep_default_na=False)["individual"]
    wanted = (len(names), manifest["embedding_size"])
    if proxies.shape != wanted:
        raise ValueError(f"proxies.npy must be {wanted}, a row a row of proxies.csv, but is {proxies.shape}")
    return ClassProxies(proxies, names.to_numpy(dtype=str))


def _keypoints(folder: Path, manifest: dict[str, Any], *, rows: int) -> KeypointFiles | None:
    if (kind := manifest["retrieval"].get("local", "none")) == "none":
        return None
    return read_keypoint_files(folder, kind, rows=rows, golden=len(_listed(manifest, "golden/*.png")))


def _cohort(folder: Path, manifest: dict[str, Any]) -> np.ndarray | None:
    if "cohort.npy" not in manifest["files"]:
        return None
    cohort = np.load(folder / "cohort.npy", allow_pickle=False)
    if cohort.ndim != 2 or cohort.shape[1] != manifest["embedding_size"]:
        raise ValueError(f"cohort.npy must have {manifest['embedding_size']} columns, but is {cohort.shape}")
    return np.asarray(cohort)


def _examples(folder: Path) -> tuple[ExamplePhoto, ...]:
    if not (folder / "examples.csv").exists():
        return ()
    rows = pd.read_csv(folder / "examples.csv", dtype=str, keep_default_na=False)
    images = rows.get("image", pd.Series("", rows.index))  # older bundles do not name it
    return tuple(
        ExamplePhoto((folder / f"{place}.jpg").read_bytes(), individual, image)
        for place, (individual, image) in enumerate(zip(rows["individual"], images, strict=True))
    )


def _files(contents: BundleContents) -> list[tuple[str, bytes]]:
    from safetensors.torch import save

    files = [
        (
            "encoder.safetensors",
            save({name: tensor.contiguous() for name, tensor in contents.weights.items()}),
        ),
        ("gallery.npy", npy_bytes(contents.gallery.astype(np.float16))),
        ("gallery.csv", contents.table.to_csv(index=False).encode()),
        ("golden/embeddings.npy", npy_bytes(contents.golden_vectors.astype(np.float32))),
        ("README.md", model_card(contents.manifest).encode()),
    ]
    if contents.proxies is not None:
        names = pd.DataFrame({"individual": contents.proxies.individuals})
        files.append(("proxies.npy", npy_bytes(contents.proxies.vectors.astype(np.float16))))
        files.append(("proxies.csv", names.to_csv(index=False).encode()))
    if contents.cohort is not None:
        files.append(("cohort.npy", npy_bytes(contents.cohort.astype(np.float16))))
    if contents.int8:
        files.append((_INT8, contents.int8))
    files += [(f"golden/{place:02d}.png", data) for place, data in enumerate(contents.golden)]
    files += [(f"thumbnails/{row}.jpg", data) for row, data in contents.thumbnails.items()]
    files += [(f"examples/{place}.jpg", data) for place, (data, *_) in enumerate(contents.examples)]
    if contents.examples:
        labels = pd.DataFrame(contents.examples).drop(columns="data")
        files.append(("examples/examples.csv", labels.to_csv(index=False).encode()))
    return files


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"a bundle is a folder with a {MANIFEST}, but {folder} has none. Name a bundle's folder")
    refuse_lfs_pointers(folder, [MANIFEST])
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise BundleError(f"{path} is not JSON ({error}). Make the bundle again") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise BundleError(f"this version reads bundles of format {FORMAT_VERSION}, but {path} has format {found}")
    absent = [key for key in _NEEDED if key not in manifest]
    if absent or not isinstance(manifest["files"], dict):
        raise BundleError(f"{path} must hold {', '.join(absent or ['the files'])}, but does not. Make the bundle again")
    return dict(manifest)
