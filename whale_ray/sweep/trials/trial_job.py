"""One trial at work: an encoder is trained on each of its splits, all are scored together and written down.

Knows splits and scores, and the folder that is left of a trial; who runs it, and where, is `trial`'s.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.device import reserved_device
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.trial_settings import Settings
from whale_ray.sweep.trials.class_proxies import SplitProxies
from whale_ray.sweep.trials.embeddings_io import Views, write_embeddings
from whale_ray.sweep.trials.fit import Fit
from whale_ray.sweep.trials.scoring import Scoring, figures_of, score_trial, study_figures, write_scores
from whale_ray.sweep.trials.trackers import Tracker, open_tracker

FOLDS = "folds"


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share: where they write, what they see, how they are scored."""

    sweep: str
    folder: Path
    working_folder: Path
    dataset: Dataset
    scoring: Scoring
    threads: int
    gpus: float
    wandb: str
    wandb_project: str

    def trial_folder(self, trial: str) -> Path:
        """Where a trial keeps what is left of it."""
        return self.folder / "trials" / trial


class Work:
    """A trial at work: an encoder for each of its splits, built from its settings; what it leaves goes into `folder`.

    device: where it works; that of the job's share of a GPU where none is named. on_batch: called before each batch
    that is trained on or embedded.
    """

    def __init__(
        self,
        trial: str,
        job: Job,
        *,
        folder: Path | None = None,
        device: str | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.job = job
        self.folder = folder or job.trial_folder(trial)
        self.trial = trial
        self.on_batch = on_batch
        written = json.loads((job.trial_folder(trial) / "settings.json").read_text())
        self.settings: Settings = completed(written["settings"])
        self.scoring = job.scoring.of(written["kind"])
        self.device = torch.device(device or reserved_device(job.gpus))
        self.earlier_seconds = 0.0
        self.pseudo_labels: int | None = None

    def run(self, report: Any) -> dict[str, Any]:
        """The trial's result, after training, scoring and writing; `report` is called with each epoch's figures."""
        with self._tracker() as tracker:
            result = self._result(report, tracker)
            tracker.summarise({key: value for key, value in result.items() if value is not None})
        return result

    def retrain(self) -> None:
        """Trains and writes the encoder, without any score."""
        fit = self._fit(self.job.dataset, self.folder)
        fit.train(lambda figures: None)
        views = fit.views()
        fit.keep()
        write_embeddings(views, fit.table, self.folder, _of_split(0, fit.proxies()))
        fit.forget()

    def _result(self, report: Any, tracker: Tracker) -> dict[str, Any]:
        curve = _Curve(self.folder, report, tracker)
        views, proxies, rate = self._single(curve) if self.job.dataset.folds == 1 else self._folds(curve)
        table = self.job.dataset.scored()
        evaluation = score_trial(views, table, scoring=self.scoring, settings=self.settings, proxies=proxies)
        write_scores(evaluation, self.folder)
        write_embeddings(views, table, self.folder, proxies)
        shutil.rmtree(self.folder / FOLDS, ignore_errors=True)
        return {
            **figures_of(evaluation, self.scoring),
            **(study_figures(views, table) if self.settings["split"]["kind"] == "halves" else {}),
            **({} if self.pseudo_labels is None else {"pseudo_labels": self.pseudo_labels}),
            "epochs": len(curve.epochs),
            "embedding_size": views["plain"].shape[1],
            "milliseconds_per_image": 1000.0 / rate,
        }

    def _single(self, curve: _Curve) -> tuple[Views, SplitProxies, float]:
        fit = self._fit(self.job.dataset, self.folder)
        curve.add(fit.train(curve.seen))
        self._count(fit)
        fit.keep()
        return fit.views(), _of_split(0, fit.proxies()), fit.rate()

    def _folds(self, curve: _Curve) -> tuple[Views, SplitProxies, float]:
        """The views of every fold, one after the other; each fold is trained once, and its weights are not kept."""
        every: list[Views] = []
        proxies: dict[int, ClassProxies] = {}
        for number, split in enumerate(self.job.dataset.splits):
            fit = self._fit(split, self.folder / FOLDS / str(number))
            curve.add(fit.train(curve.seen), fold=number)
            self._count(fit)
            every.append(fit.views())
            proxies |= _of_split(number, fit.proxies())
        joined = {name: np.concatenate([views[name] for views in every]) for name in every[0]}
        return joined, proxies, fit.rate()

    def _count(self, fit: Fit) -> None:
        self.earlier_seconds += fit.earlier_seconds
        if fit.pseudo_labels is not None:
            self.pseudo_labels = (self.pseudo_labels or 0) + fit.pseudo_labels

    def _fit(self, dataset: Dataset, folder: Path) -> Fit:
        return Fit(
            self.settings,
            dataset,
            folder,
            first=self.scoring.retrieval[0],
            objective=self.scoring.objective,
            device=self.device,
            on_batch=self.on_batch,
        )

    def _tracker(self) -> AbstractContextManager[Tracker]:
        job = self.job
        return open_tracker(
            job.wandb,
            project=job.wandb_project,
            sweep=job.sweep,
            trial=self.trial,
            settings=self.settings,
            folder=self.folder,
        )


def _of_split(split: int, proxies: ClassProxies | None) -> dict[int, ClassProxies]:
    return {} if proxies is None else {split: proxies}


class _Curve:
    """The epochs of a trial; those of several folds one after the other, numbered on."""

    def __init__(self, folder: Path, report: Callable[[dict[str, Any]], None], tracker: Tracker) -> None:
        self._path, self._report, self._tracker = folder / "epochs.csv", report, tracker
        self.epochs: list[dict[str, Any]] = []

    def seen(self, figures: dict[str, Any]) -> None:
        """Tells of an epoch that has just ended."""
        numbered = figures | {"epoch": len(self.epochs) + figures["epoch"]}
        self._tracker.log(figures, epoch=numbered["epoch"])
        self._report(numbered)

    def add(self, epochs: list[dict[str, Any]], fold: int | None = None) -> None:
        """The epochs of a training that has ended."""
        if fold is None:
            self.epochs = epochs
            return
        done = len(self.epochs)
        self.epochs += [{**row, "fold": fold, "epoch": done + row["epoch"]} for row in epochs]
        if epochs:
            write_atomically(self._path, pd.DataFrame(self.epochs).to_csv(index=False))
