"""Benchmark of the label review: precision and recall on label errors and copies that the script plants.

The script copies a data set and plants wrong labels, named photographs labelled as unknown, individuals with two
names, and cropped, brightened and re-encoded copies. It runs a sweep on the copy and compares review.csv with the
planted errors. Without --data it uses drawn flukes; with --data a copy of those photographs and the features of a
frozen MobileNetV2.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image, ImageEnhance

from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.data.synthetic.photo_plan import plan_photos
from whale_ray.sweep.report.review.label_review import read_review

UNKNOWN = "new_whale"
INDIVIDUALS, IMAGES, DIFFICULTY = 60, 900, 0.2
DRAWN = """
name: drawn
data: {root: ROOT, group_column: Encounter, image_size: 64x128}
model: {encoder: tiny, embedding_size: 128}
loss: [{name: arcface}, {name: proxy_anchor}, {name: triplet}]
train: {epochs: 32, batch_size: 32, learning_rate: 2.0e-3, evaluate_every: 32}
retrieval: {neighbours: [1, 5], vote: [nearest, softmax], whiten: [none, learned], local: [none, sift]}
search: {strategy: grid}
"""
FROZEN = """
name: frozen
data: {root: ROOT, image_size: 192}
model: {encoder: "torchvision:mobilenet_v2", weights: WEIGHTS, pool: gem, neck: none, embedding_size: null}
loss: {name: none}
train: {epochs: 0}
retrieval: {neighbours: [1, 5], flip: [none, average], whiten: [none, learned], whitened_size: [128]}
search: {strategy: grid, objective: map@5}
"""


@dataclass
class Planted:
    """The planted errors.

    Attributes:
        wrong: Photograph with a wrong label → right individual.
        hidden: Photograph labelled as unknown → right individual.
        doubles: Second name → first name of the same individual.
        copies: Copy → original.
    """

    wrong: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    doubles: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)

    def name(self, individual: str) -> str:
        """Return the first name of an individual that may have two names."""
        return self.doubles.get(individual, individual)


def plant_errors(source: Path, root: Path, *, share: float, seed: int) -> Planted:
    """Copy a folder in the Kaggle layout to `root` and plant errors there; `share` scales them, 0 plants none."""
    shutil.copytree(source / "train", root / "train")
    table = pd.read_csv(source / "train.csv", dtype=str, keep_default_na=False)
    rng, planted = np.random.default_rng(seed), Planted()
    for step in (_split_individuals, _mislabel, _hide, _copy_photographs):
        table = step(table, planted, rng, share, root / "train")
    table.sample(frac=1, random_state=seed).to_csv(root / "train.csv", index=False)
    return planted


def _drawn(rows: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.Index:
    return rows.index[rng.permutation(len(rows))[: round(share * len(rows))]]


def _seen_often(table: pd.DataFrame, least: int) -> pd.DataFrame:
    """Return the rows of named individuals with at least this number of photographs."""
    counts = table["Id"].map(table["Id"].value_counts())
    return table[(table["Id"] != UNKNOWN) & (counts >= least)]


def _split_individuals(
    table: pd.DataFrame, planted: Planted, rng: np.random.Generator, share: float, folder: Path
) -> pd.DataFrame:
    """Give a second name to half of the encounters, or of the photographs, of some individuals."""
    names = sorted(set(_seen_often(table, 4)["Id"]))
    for name in rng.permutation(names)[: round(share * len(names))]:
        rows = table[table["Id"] == name]
        groups = rows["Encounter"] if "Encounter" in rows else pd.Series(rows["Image"])
        second = rng.permutation(sorted(set(groups)))[: groups.nunique() // 2]
        double = f"{name}_again"
        table.loc[rows.index[groups.isin(second)], "Id"] = double
        planted.doubles[double] = str(name)
    return table


def _mislabel(
    table: pd.DataFrame, planted: Planted, rng: np.random.Generator, share: float, folder: Path
) -> pd.DataFrame:
    """Give some photographs the label of another individual, drawn in proportion to its photographs."""
    rows = _seen_often(table, 2)
    names = table.loc[table["Id"] != UNKNOWN, "Id"].to_numpy()
    for row in _drawn(rows, share, rng):
        image, right = (str(table.at[row, column]) for column in ("Image", "Id"))
        others = names[[planted.name(name) != planted.name(right) for name in names]]
        table.at[row, "Id"] = str(rng.choice(others))
        planted.wrong[image] = planted.name(right)
    return table


def _hide(table: pd.DataFrame, planted: Planted, rng: np.random.Generator, share: float, folder: Path) -> pd.DataFrame:
    """Label some photographs of named individuals as unknown."""
    rows = _seen_often(table, 3)
    rows = rows[~rows["Image"].isin(list(planted.wrong))]
    for row in _drawn(rows, 0.6 * share, rng):
        planted.hidden[str(table.at[row, "Image"])] = planted.name(str(table.at[row, "Id"]))
        table.at[row, "Id"] = UNKNOWN
    return table


def _copy_photographs(
    table: pd.DataFrame, planted: Planted, rng: np.random.Generator, share: float, folder: Path
) -> pd.DataFrame:
    """Add copies of some photographs, cropped by 2 to 8 % at each side, brighter or darker, and re-encoded."""
    rows = table[(table["Id"] != UNKNOWN) & ~table["Image"].isin(list(planted.wrong))]
    copies: list[dict[str, object]] = []
    for row in _drawn(rows, 0.6 * share, rng):
        name = f"copy{len(copies):03}.jpg"
        planted.copies[name] = str(table.at[row, "Image"])
        _save_again(folder / planted.copies[name], folder / name, rng)
        copies.append(
            {**table.loc[row].to_dict(), "Image": name, **({"Encounter": name} if "Encounter" in table else {})}
        )
    return pd.concat([table, pd.DataFrame(copies, columns=table.columns)], ignore_index=True)


def _save_again(original: Path, copy: Path, rng: np.random.Generator) -> None:
    with Image.open(original) as opened:
        image = opened.convert("RGB")
    left, top, right, bottom = rng.uniform(0.02, 0.08, 4) * (image.width, image.height, image.width, image.height)
    image = image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom)))
    image = ImageEnhance.Brightness(image).enhance(rng.choice([0.8, 1.2]) + rng.uniform(-0.05, 0.05))
    image.save(copy, "JPEG", quality=int(rng.integers(50, 90)))


def judge(run: Path, planted: Planted, animals: dict[str, int]) -> pd.DataFrame:
    """Return a row per kind: planted, listed, correctly listed, and planted errors that were found."""
    found = read_review(run)
    split = pd.read_csv(run / "split.csv", index_col="Image")["part"]
    copies = {frozenset(pair) for pair in planted.copies.items()}
    across = {pair for pair in copies if split[list(pair)].nunique() > 1}
    right: dict[str, Callable[[pd.Series], bool]] = {
        "mislabelled": lambda row: planted.wrong.get(row["image"]) == planted.name(row["suggested"]),
        "recognised": lambda row: planted.hidden.get(row["image"]) == planted.name(row["suggested"]),
        "same_individual": lambda row: planted.name(row["individual"]) == planted.name(row["other_individual"]),
        "near_identical": lambda row: frozenset((row["image"], row["other_image"])) in copies,
        "new_individual": lambda row: bool(animals) and animals[row["image"]] == animals[row["other_image"]],
    }
    there = {
        "mislabelled": len(planted.wrong),
        "recognised": len(planted.hidden),
        "same_individual": len(planted.doubles),
        "near_identical": len(copies),
    }
    rows = {}
    for kind, judged in right.items():
        listed = found[found["kind"] == kind]
        rows[kind] = {
            "planted": there.get(kind, 0),
            "listed": len(listed),
            "right": int(sum(listed.apply(judged, axis=1))),
        }
    pairs = found[found["kind"] == "near_identical"]
    seen = {frozenset(pair) for pair in zip(pairs["image"], pairs["other_image"], strict=True)}
    apart = [len(set(parts.split(", "))) > 1 for parts in pairs["parts"]]
    rows["  across the split"] = {"planted": len(across), "listed": sum(apart), "right": len(across & seen)}
    return pd.DataFrame(rows).T


def main(
    data: Annotated[Path | None, typer.Option(help="Photographs in the Kaggle layout; left out: drawn flukes.")] = None,
    weights: Annotated[Path | None, typer.Option(help="With --data: ImageNet weights of mobilenet_v2.")] = None,
    share: Annotated[
        float, typer.Option(help="Share of labels that are replaced by wrong ones; 0 plants nothing.")
    ] = 0.05,
    seeds: Annotated[
        int, typer.Option(help="Number of repetitions, each with other errors (and other flukes).", min=1)
    ] = 2,
    first_seed: Annotated[int, typer.Option(help="First seed.")] = 1,
) -> None:
    """Print precision and recall of each kind of finding; several minutes per seed on two cores."""
    total = pd.DataFrame()
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first_seed, first_seed + seeds):
            source, animals = data, dict[str, int]()
            if source is None:
                source = Path(scratch) / f"source{seed}"
                draw_dataset(source, individuals=INDIVIDUALS, images=IMAGES, difficulty=DIFFICULTY, seed=seed)
                plan = plan_photos(individuals=INDIVIDUALS, images=IMAGES, seed=seed)
                animals = {photo.image: photo.animal for photo in plan}
            root = Path(scratch) / f"planted{seed}"
            planted = plant_errors(source, root, share=share, seed=seed)
            animals |= {copy: animals[original] for copy, original in planted.copies.items() if animals}
            file = Path(scratch) / f"seed{seed}.yaml"
            file.write_text(
                (DRAWN if data is None else FROZEN).replace("ROOT", str(root)).replace("WEIGHTS", str(weights))
            )
            runs = ["--runs", f"{scratch}/runs{seed}"]
            subprocess.run([sys.executable, "-m", "whale_ray.sweep", str(file), *runs], check=True, capture_output=True)
            run = Path(scratch) / f"runs{seed}" / ("drawn" if data is None else "frozen")
            found = judge(run, planted, animals)
            recall = pd.read_csv(run / "leaderboard.csv")["recall@1"].iloc[0]
            print(f"seed {seed}, recall@1 {recall:.3f}\n{found.to_string()}", flush=True)
            total = found if total.empty else total + found
    total["precision"], total["recall"] = total["right"] / total["listed"], total["right"] / total["planted"]
    print(f"together\n{total.round(2).to_string()}")


if __name__ == "__main__":
    typer.run(main)
