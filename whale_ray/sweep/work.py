"""One trial at work: its encoder is built, trained, scored and written down.

Knows training and scores, and the folder that is left of a trial; who runs it, and where, is `trial`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from whale_ray.durable import write_whole
from whale_ray.sweep.checkpoint import Checkpoint, CheckpointError, drop_state, keep_weights
from whale_ray.sweep.dataset import Dataset, geometry_of
from whale_ray.sweep.plan import Settings, encoder_of
from whale_ray.sweep.proxies import Proxies, learned_proxies, with_proxies
from whale_ray.sweep.scores import (
    Scoring,
    Views,
    figures_of,
    score_epoch,
    score_trial,
    study_figures,
    write_embeddings,
    write_scores,
)
from whale_ray.sweep.tracking import Tracker, open_tracker

if TYPE_CHECKING:
    from whale_ray.data.batches import Batches
    from whale_ray.learning.training import Epoch, Training


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
    """A trial at work: its parts, built from its settings; what it leaves goes into `folder`.

    on_batch: called before each batch that is trained on or embedded.
    """

    def __init__(
        self, trial: str, job: Job, *, folder: Path | None = None, on_batch: Callable[[], None] = lambda: None
    ) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.job = job
        self.folder = folder or job.trial_folder(trial)
        self.trial = trial
        self.on_batch = on_batch
        self.earlier_seconds = 0.0
        written = json.loads((job.trial_folder(trial) / "settings.json").read_text())
        self.settings: Settings = written["settings"]
        self.scoring = job.scoring.of(written["kind"])
        self.device = torch.device("cuda" if job.gpus and torch.cuda.is_available() else "cpu")
        self.geometry = geometry_of(self.settings["data"], self.settings["train"])
        self.pixels = job.dataset.pixels(self.geometry)
        self.rows = job.dataset.rows("train", "val")
        self.table = job.dataset.table.iloc[self.rows]
        torch.manual_seed(self.settings["seed"])
        self.encoder = encoder_of(self.settings).to(self.device)
        self.proxies: Callable[[], Proxies | None] = lambda: None  # what the loss has learned so far

    def run(self, report: Any) -> dict[str, Any]:
        """The trial's result, after training, scoring and writing; `report` is called with each epoch's figures."""
        with self._tracker() as tracker:
            result = self._result(report, tracker)
            tracker.summarise({key: value for key, value in result.items() if value is not None})
        return result

    def retrain(self) -> None:
        """Trains and writes the encoder, without any score."""
        if self.settings["train"]["epochs"]:
            with open_tracker("off", project="", sweep="", trial="", settings={}, folder=self.folder) as tracker:
                self._train(lambda figures: None, tracker)
        self._write_encoder(self._views()[0])
        drop_state(self.folder / "checkpoint")

    def _result(self, report: Any, tracker: Tracker) -> dict[str, Any]:
        epochs = self._train(report, tracker) if self.settings["train"]["epochs"] else []
        views, embed_rate = self._views()
        unknown = self.job.dataset.unknown_label
        rows = with_proxies(views, self.table, self.proxies())
        evaluation = score_trial(*rows, scoring=self.scoring, unknown_label=unknown)
        write_scores(evaluation, self.folder)
        self._write_encoder(views)
        return {
            **figures_of(evaluation, self.scoring),
            **(study_figures(views, self.table) if self.settings["split"]["kind"] == "halves" else {}),
            "epochs": len(epochs),
            "embedding_size": self.encoder.embedding_size,
            "milliseconds_per_image": 1000.0 / embed_rate,
        }

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

    def _batches(self) -> Batches:
        from whale_ray.data.batches import Batches

        train = self.settings["train"]
        rows, labels, _ = self.job.dataset.training_rows(negatives=train["new_whale"] == "negative")
        return Batches(
            self.pixels.array,
            self.geometry,
            rows,
            labels,
            batch_size=train["batch_size"],
            images_per_individual=train["images_per_individual"] if train["sampler"] == "pk" else None,
            flip=train["flip"],
            **{name: train[name] for name in ("affine", "colour", "blur", "erasing")},
            seed=self.settings["seed"],
            device=self.device,
            on_batch=self.on_batch,
        )

    def _training(self, batches: Batches) -> Training:
        from whale_ray.learning.losses import build_loss
        from whale_ray.learning.training import start_training

        size = self.encoder.embedding_size
        loss = build_loss(num_classes=batches.num_classes, embedding_size=size, **self.settings["loss"])
        train = self.settings["train"]
        rates = ("learning_rate", "head_learning_rate", "proxy_learning_rate", "weight_decay")
        names = ("epochs", *rates, "warmup_epochs", "schedule", "clip", "precision")
        return start_training(
            self.encoder,
            loss.to(self.device),
            steps=batches.steps,
            device=self.device,
            seed=self.settings["seed"],
            **{name: train[name] for name in names},
        )

    def _train(self, report: Any, tracker: Tracker) -> list[dict[str, Any]]:
        import torch

        from whale_ray.learning.training import train_epochs

        batches = self._batches()
        checkpoint = Checkpoint(self.folder / "checkpoint", keep_best=self.settings["train"]["keep"] == "best")
        training = self._training(batches)
        try:
            epochs, note = checkpoint.load(training), {}
        except CheckpointError as error:
            torch.manual_seed(self.settings["seed"])
            self.encoder = encoder_of(self.settings).to(self.device)
            training, epochs, note = self._training(batches), [], {"note": f"{error}; it begins anew"}
        self.proxies = partial(
            learned_proxies,
            training.loss,
            self.table,
            num_classes=batches.num_classes,
            unknown_label=self.job.dataset.unknown_label,
        )
        self.earlier_seconds = sum(row["seconds"] for row in epochs)
        for epoch in train_epochs(training, batches):
            figures = self._figures(epoch, spent=sum(row["seconds"] for row in epochs))
            epochs.append(figures)
            checkpoint.save(training, epochs, objective=self.job.scoring.objective)
            write_whole(self.folder / "epochs.csv", pd.DataFrame(epochs).to_csv(index=False))
            tracker.log(figures, epoch=epoch.number)
            report(figures | note)
        checkpoint.restore_best(self.encoder, training.loss)
        return epochs

    def _figures(self, epoch: Epoch, *, spent: float) -> dict[str, Any]:
        """One row of epochs.csv; the scores of the first retrieval setting where this epoch is evaluated."""
        figures: dict[str, Any] = {
            "epoch": epoch.number,
            "loss": epoch.loss,
            "images_per_second": epoch.images / epoch.seconds,
            "seconds": epoch.seconds,
            "training_seconds": spent + epoch.seconds,
            "learning_rate": epoch.learning_rate,
        }
        every, last = self.settings["train"]["evaluate_every"], self.settings["train"]["epochs"]
        scored = epoch.number % every == 0 or epoch.number == last
        if scored and len(self.job.dataset.rows("val")):
            setting = self.scoring.retrieval[0]
            views = {"plain": self._embed(flipped=False)}
            if setting.flip == "average":
                views["flip"] = self._embed(flipped=True)
            unknown = self.job.dataset.unknown_label
            rows = with_proxies(views, self.table, self.proxies() if setting.classifier_weight else None)
            figures |= score_epoch(*rows, setting=setting, unknown_label=unknown)
        return figures

    def _embed(self, *, flipped: bool) -> np.ndarray:
        from whale_ray.retrieval.embedding import embed

        return embed(
            self.encoder,
            self.pixels.array,
            self.geometry,
            self.rows,
            flipped=flipped,
            batch_size=self.settings["train"]["batch_size"],
            device=self.device,
            on_batch=self.on_batch,
        )

    def _views(self) -> tuple[Views, float]:
        """Both views, whatever the sweep asks of them: other retrieval settings may be scored later; images/s."""
        started = time.perf_counter()
        views = {"plain": self._embed(flipped=False)}
        rate = len(self.rows) / (time.perf_counter() - started)
        return {**views, "flip": self._embed(flipped=True)}, rate

    def _write_encoder(self, views: Views) -> None:
        """Writes the embeddings of all photographs and the weights that gave them."""
        keep_weights(self.encoder, self.folder / "checkpoint")
        write_embeddings(views, self.table, self.folder, self.proxies())
