"""Second training round on pseudo-labels: photographs used, schedule, resuming, no leak of validation labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from whale_ray.data.batches import Batches
from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.errors import InputError
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import epochs_of, first_settings, geometries, longest_training
from whale_ray.sweep.run_folder.checkpoints import load_weights
from whale_ray.sweep.trials.pseudo_labels import LABELS, check_unknown, hold_out
from whale_ray.sweep.trials.scoring import scoring_of
from whale_ray.sweep.trials.split_trainer import SplitTrainer

pytestmark = pytest.mark.integration

PSEUDO = """
name: pseudo
data: {root: ROOT, image_size: 32x64, group_by: twins}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: proxy_anchor}
train: {epochs: 1, batch_size: 16, learning_rate: 6.0e-3, pseudo_labels: 0.501, pseudo_epochs: 2, ema: 0.5}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pseudo") / "drawn"
    draw_dataset(root, individuals=16, images=220, difficulty=0.0, size=(32, 64), workers=1)
    return root


@pytest.fixture(scope="module")
def sweep(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    file = tmp_path_factory.mktemp("sweep") / "pseudo.yaml"
    file.write_text(PSEUDO.replace("ROOT", str(drawn)))
    return load_sweep(file)


@pytest.fixture(scope="module")
def dataset(sweep: Sweep, cache: Path) -> Dataset:
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=cache / "pixels")


def trainer_of(sweep: Sweep, dataset: Dataset, folder: Path) -> SplitTrainer:
    torch.set_num_threads(1)
    return SplitTrainer(
        first_settings(sweep),
        dataset,
        folder,
        pixels=dataset.pixels(geometries(sweep)[0]),
        first=scoring_of(sweep).retrieval[0],
        objective="recall@1",
        device=torch.device("cpu"),
        on_batch=lambda: None,
    )


@dataclasses.dataclass
class Trained:
    trainer: SplitTrainer
    folder: Path
    epochs: list[dict[str, Any]]
    trained_on: list[tuple[np.ndarray, np.ndarray]]

    @property
    def labels(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / LABELS)


@pytest.fixture(scope="module")
def trained(sweep: Sweep, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, trained_on = tmp_path_factory.mktemp("trained"), []
    trainer = trainer_of(sweep, dataset, folder)
    build_batches = trainer._build_batches

    def noted(rows: np.ndarray, labels: np.ndarray, *, seed: int) -> Batches:
        trained_on.append((rows, labels))
        return build_batches(rows, labels, seed=seed)

    trainer._build_batches = noted  # type: ignore[method-assign]
    epochs = trainer.train(lambda figures: None)
    trainer.save_weights()
    return Trained(trainer, folder, epochs, trained_on)


def test_the_first_round_excludes_held_out_photographs_and_the_second_uses_all_labelled_ones(
    trained: Trained, dataset: Dataset
) -> None:
    (first, _), (second, labels) = trained.trained_on
    named, codes, _ = dataset.training_rows(negatives=False)
    held = hold_out(dataset, seed=0)
    assert len(held) > 10
    assert sorted(first) == sorted(set(named) - set(held))
    images = dataset.table["image"].to_numpy()
    assert set(images[second]) == set(images[named]) | set(trained.labels["Image"])
    names = dict(zip(dataset.table["individual"].to_numpy()[named], codes, strict=True))
    assert labels[len(named) :].tolist() == [names[name] for name in trained.labels["Id"]]
    assert trained.trainer.pseudo_labels == len(trained.labels) > 0


def test_only_unknown_photographs_of_the_training_part_get_a_name(trained: Trained, dataset: Dataset) -> None:
    table = dataset.table.set_index("image").loc[trained.labels["Image"]]
    assert (table["part"] == "train").all()
    assert (table["individual"] == "new_whale").all()
    assert "new_whale" not in set(trained.labels["Id"])
    assert (trained.labels["probability"] >= 0.501).all()


def test_the_names_of_validation_photographs_change_nothing(
    trained: Trained, sweep: Sweep, dataset: Dataset, tmp_path: Path
) -> None:
    table = dataset.table.copy()
    validates = table["part"] == "val"
    table.loc[validates, "individual"] = table.loc[validates, "individual"].sample(frac=1.0, random_state=1).to_numpy()
    other = trainer_of(sweep, dataclasses.replace(dataset, table=table), tmp_path)
    other.train(lambda figures: None)
    assert (tmp_path / LABELS).read_text() == (trained.folder / LABELS).read_text()


def test_epochs_are_numbered_across_rounds_and_each_round_has_its_own_schedule(trained: Trained, sweep: Sweep) -> None:
    assert [row["epoch"] for row in trained.epochs] == [1, 2, 3]
    assert trained.epochs[1]["learning_rate"] > trained.epochs[0]["learning_rate"] / 2
    assert all(row["recall@1"] is not None for row in trained.epochs)
    assert epochs_of(first_settings(sweep)) == longest_training(sweep) == 3


class StoppedError(Exception):
    pass


def test_a_stop_after_any_epoch_changes_nothing(
    trained: Trained, sweep: Sweep, dataset: Dataset, tmp_path: Path
) -> None:
    def stop(figures: dict[str, Any]) -> None:
        raise StoppedError

    for _ in range(3):
        with pytest.raises(StoppedError):
            trainer_of(sweep, dataset, tmp_path).train(stop)
    again = trainer_of(sweep, dataset, tmp_path)
    epochs = again.train(lambda figures: None)
    again.save_weights()
    assert [row["loss"] for row in epochs] == [row["loss"] for row in trained.epochs]
    assert again.earlier_seconds == pytest.approx(sum(row["seconds"] for row in epochs))
    assert again.pseudo_labels == trained.trainer.pseudo_labels
    mine, theirs = (
        load_weights(folder / "checkpoint" / "encoder.safetensors") for folder in (tmp_path, trained.folder)
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    again.drop_training_state()
    assert not (tmp_path / "checkpoint" / "second").exists()


def test_a_damaged_second_round_restarts_from_the_end_of_the_first(
    trained: Trained, sweep: Sweep, dataset: Dataset, tmp_path: Path
) -> None:
    trainer_of(sweep, dataset, tmp_path).train(lambda figures: None)
    (tmp_path / "checkpoint" / "second" / "state.pt").write_bytes(b"spoiled")
    seen: list[dict[str, Any]] = []
    epochs = trainer_of(sweep, dataset, tmp_path).train(seen.append)
    assert [row["epoch"] for row in seen] == [2, 3]
    assert "starts again" in seen[0]["note"]
    assert [row["loss"] for row in epochs] == [row["loss"] for row in trained.epochs]


def test_whole_encounters_are_held_out_and_none_of_few_photographs(dataset: Dataset) -> None:
    rows = dataset.rows("train")
    names = dataset.table["individual"].to_numpy()
    table = dataset.table.copy()
    table["group"] = [f"{name}/{place % 4}" for place, name in enumerate(names)]
    grouped = dataclasses.replace(dataset, table=table)
    for each in (dataset, grouped):
        held = hold_out(each, seed=3)
        assert np.array_equal(held, hold_out(each, seed=3))
        assert set(held) <= set(rows)
        assert "new_whale" not in set(names[held])
        for name in set(names[rows]) - {"new_whale"}:
            own = rows[names[rows] == name]
            mine = np.intersect1d(own, held)
            assert len(mine) <= int(0.2 * len(own) + 0.5)
            assert len(own) > 2 or not len(mine)
            groups = each.table["group"]
            if each is grouped:
                assert not set(groups.iloc[mine]) & set(groups.iloc[np.setdiff1d(own, mine)])
    assert len(hold_out(dataset, seed=3)) > len(rows) * 0.08


def test_pseudo_labels_without_unknown_photographs_are_refused(sweep: Sweep, dataset: Dataset) -> None:
    check_unknown(sweep, dataset)
    named = dataset.table[dataset.table["individual"] != "new_whale"]
    folded = dataclasses.replace(dataset, table=dataset.table.assign(fold=np.arange(len(dataset.table)) % 2), folds=2)
    check_unknown(sweep, folded)
    with pytest.raises(InputError, match=r"needs training photographs of unknown individuals.*new_whale"):
        check_unknown(sweep, dataclasses.replace(dataset, table=named))
