"""One encoder on one split: built, trained, embedded; its state goes into a folder, so that it goes on after a stop.

Knows training and the vectors that come of it; which splits a trial has, and how it is scored, is `work`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_config import RetrievalSetting
from whale_ray.sweep.planning.dataset import Dataset, geometry_of
from whale_ray.sweep.planning.trial_settings import Settings, encoder_of, epochs_of
from whale_ray.sweep.run_folder.checkpoints import SECOND, Checkpoint, CheckpointError, drop_state, keep_weights
from whale_ray.sweep.trials.class_proxies import learned_proxies
from whale_ray.sweep.trials.embeddings_io import Views
from whale_ray.sweep.trials.pseudo_labels import LABELS, hold_out, label_unknown, read_labels
from whale_ray.sweep.trials.scoring import score_epoch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from whale_ray.data.batches import Batches
    from whale_ray.learning.encoders.registry import Encoder
    from whale_ray.learning.training.loop import Epoch, Training

_STRENGTHS = ("affine", "colour", "blur", "erasing")
_TIMED = 32


class Fit:
    """An encoder that is trained on the `train` photographs of a data set; its state is in `folder`.

    first: the retrieval setting that epochs are scored by. on_batch: called before each batch, trained or embedded.
    With `train.pseudo_labels` there is a second round, also on photographs that nobody knew, `pseudo_labels` of them,
    under the names that the first round's encoder gave them.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        folder: Path,
        *,
        first: RetrievalSetting,
        objective: str,
        device: torch.device,
        on_batch: Callable[[], None],
    ) -> None:
        import torch

        self.settings, self.dataset, self.folder = settings, dataset, folder
        self.first, self.objective = first, objective
        self.device, self.on_batch = device, on_batch
        self.geometry = geometry_of(settings["data"], settings["train"])
        self.pixels = dataset.pixels(self.geometry)
        self.rows = dataset.rows("train", "val")
        self.table = dataset.scored()
        self.earlier_seconds = 0.0
        self.proxies: Callable[[], ClassProxies | None] = lambda: None  # what the loss has learned so far
        self.pseudo_labels: int | None = None
        self._known_features: dict[bool, np.ndarray] = {}
        torch.manual_seed(settings["seed"])
        self.encoder = encoder_of(settings).to(device)

    @property
    def learns_from_features(self) -> bool:
        """Whether the trunk is frozen and sees each photograph as it is: its features are then computed once."""
        return self.encoder.is_frozen and not any(self.settings["train"].get(name) for name in _STRENGTHS)

    def train(self, seen: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        """The figures of all epochs, those of earlier sittings included; `seen` is told of each new one."""
        train, seed = self.settings["train"], self.settings["seed"]
        if not train["epochs"]:
            return []
        rows, labels, _ = self.dataset.training_rows(negatives=train["new_whale"] == "negative")
        held = hold_out(self.dataset, seed=seed) if train["pseudo_labels"] else rows[:0]
        kept = ~np.isin(rows, held)
        checkpoint, batches = self._checkpoint(), self._batches(rows[kept], labels[kept], seed=seed)
        training, epochs = self._round(partial(self._training, batches), batches, checkpoint, [], seen)
        if train["pseudo_labels"]:
            again = self._checkpoint(SECOND)
            found, names = self._labels(held, known=again.exists and (self.folder / LABELS).exists())
            codes = dict(zip(self.dataset.table["individual"].to_numpy()[rows], labels, strict=True))
            guessed = np.array([codes[name] for name in names], dtype=np.int64)
            batches = self._batches(np.append(rows, found), np.append(labels, guessed), seed=seed + 1)
            begin = partial(self._second_training, training, checkpoint, batches)
            training, epochs = self._round(begin, batches, again, epochs, seen)
            checkpoint.restore_best(self.encoder, training.loss)
            checkpoint = again
        checkpoint.restore_best(self.encoder, training.loss)
        return epochs

    def _round(
        self,
        begin: Callable[[], Training],
        batches: Batches,
        checkpoint: Checkpoint,
        before: list[dict[str, Any]],
        seen: Callable[[dict[str, Any]], None],
    ) -> tuple[Training, list[dict[str, Any]]]:
        """A training, to its end; and the figures of all epochs, `before` those of the round before."""
        import torch

        from whale_ray.learning.training.loop import train_epochs

        training, note = begin(), {}
        try:
            done = checkpoint.load(training)
        except CheckpointError as error:
            torch.manual_seed(self.settings["seed"])
            self.encoder = encoder_of(self.settings).to(self.device)
            training, done, note = begin(), [], {"note": f"{error}; it begins anew"}
        self.encoder = training.outcome
        self.proxies = partial(
            learned_proxies,
            training.loss,
            self.table,
            num_classes=batches.num_classes,
            unknown_label=self.dataset.unknown_label,
        )
        self.earlier_seconds = sum(row["seconds"] for row in done) or self.earlier_seconds
        epochs = done or list(before)
        for epoch in train_epochs(training, batches):
            number = len(before) + epoch.number
            figures = self._figures(epoch, number, spent=sum(row["seconds"] for row in epochs))
            epochs.append(figures)
            checkpoint.save(training, epochs, objective=self.objective)
            write_atomically(self.folder / "epochs.csv", pd.DataFrame(epochs).to_csv(index=False))
            seen(figures | note)
        return training, epochs

    def _checkpoint(self, *below: str) -> Checkpoint:
        folder = self.folder.joinpath("checkpoint", *below)
        return Checkpoint(folder, keep_best=self.settings["train"]["keep"] == "best")

    def _labels(self, held: np.ndarray, *, known: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows and names of unknown photographs that the encoder is sure of; `known`: those of an earlier sitting."""
        if not known:
            vectors = self._embed(self.dataset.rows("train"), flipped=False)
            least = self.settings["train"]["pseudo_labels"]
            label_unknown(self.dataset, vectors, held, least=least, folder=self.folder)
        found, names = read_labels(self.dataset, self.folder)
        self.pseudo_labels = len(found)
        return found, names

    def _second_training(self, first: Training, checkpoint: Checkpoint, batches: Batches) -> Training:
        """The training that goes on where the first round ended, with a schedule of its own."""
        checkpoint.load(first)
        first.encoder.load_state_dict(first.outcome.state_dict())
        train = self.settings["train"]
        epochs = train["pseudo_epochs"]
        own = {"epochs": epochs, "warmup_epochs": min(train["warmup_epochs"], epochs), "head_epochs": 0}
        return self._started(first.encoder, first.loss, batches, train | own)

    def views(self) -> Views:
        """Both views, whatever the sweep asks of them: other retrieval settings may be scored later."""
        return {"plain": self._embed(self.rows, flipped=False), "flip": self._embed(self.rows, flipped=True)}

    def rate(self) -> float:
        """Photographs that are embedded a second, from pixels to vectors."""
        rows = self.rows[:_TIMED]
        started = time.perf_counter()
        self._embed_pixels(rows, flipped=False)
        return len(rows) / (time.perf_counter() - started)

    def keep(self) -> None:
        """Writes the weights; the state that only training needed is dropped by `forget`."""
        keep_weights(self.encoder, self.folder / "checkpoint")

    def forget(self) -> None:
        """Removes what only training needed."""
        drop_state(self.folder / "checkpoint")

    def _batches(self, rows: np.ndarray, labels: np.ndarray, *, seed: int) -> Batches:
        from whale_ray.data.batches import Batches, FeatureBatches

        train = self.settings["train"]
        source: Callable[..., Batches] = partial(Batches, self.pixels.array)
        if self.learns_from_features:
            source = partial(FeatureBatches, self._features(flipped=False), self._features(flipped=True))
        return source(
            self.geometry,
            rows,
            labels,
            batch_size=train["batch_size"],
            images_per_individual=None if train["sampler"] == "shuffle" else train["images_per_individual"],
            evenly=train["sampler"] == "balanced",
            negatives_share=train["negatives_share"],
            flip=train["flip"],
            **{name: train[name] for name in _STRENGTHS},
            seed=seed,
            device=self.device,
            on_batch=self.on_batch,
        )

    def _training(self, batches: Batches) -> Training:
        from whale_ray.learning.losses.registry import build_loss

        train = self.settings["train"]
        loss = build_loss(
            num_classes=batches.num_classes,
            class_counts=batches.class_counts,
            embedding_size=self.encoder.embedding_size,
            memory=train["memory"],
            **self.settings["loss"],
        )
        return self._started(self.encoder, loss, batches, train)

    def _started(self, encoder: Encoder, loss: nn.Module, batches: Batches, train: dict[str, Any]) -> Training:
        from whale_ray.learning.training.loop import start_training

        rates = ("learning_rate", "head_learning_rate", "proxy_learning_rate", "layer_decay", "weight_decay")
        names = ("epochs", *rates, "warmup_epochs", "head_epochs", "schedule", "ema", "clip", "precision")
        return start_training(
            encoder,
            loss.to(self.device),
            steps=batches.steps,
            device=self.device,
            seed=self.settings["seed"],
            **{name: train[name] for name in names},
        )

    def _figures(self, epoch: Epoch, number: int, *, spent: float) -> dict[str, Any]:
        """One row of epochs.csv; the scores of the first retrieval setting where this epoch is evaluated."""
        figures: dict[str, Any] = {
            "epoch": number,
            "loss": epoch.loss,
            "images_per_second": epoch.images / epoch.seconds,
            "seconds": epoch.seconds,
            "training_seconds": spent + epoch.seconds,
            "learning_rate": epoch.learning_rate,
        }
        scored = number % self.settings["train"]["evaluate_every"] == 0 or number == epochs_of(self.settings)
        if scored and len(self.dataset.rows("val")):
            views = {"plain": self._embed(self.rows, flipped=False)}
            if self.first.flip == "average":
                views["flip"] = self._embed(self.rows, flipped=True)
            proxies = self.proxies() if self.first.classifier_weight else None
            figures |= score_epoch(views, self.table, setting=self.first, settings=self.settings, proxies=proxies)
        return figures

    def _embed(self, rows: np.ndarray, *, flipped: bool) -> np.ndarray:
        from whale_ray.retrieval.feature_cache import embed_features

        if self.encoder.is_frozen:
            return embed_features(self.encoder, self._features(flipped=flipped)[rows], device=self.device)
        return self._embed_pixels(rows, flipped=flipped)

    def _embed_pixels(self, rows: np.ndarray, *, flipped: bool) -> np.ndarray:
        from whale_ray.retrieval.embed import embed

        size = self.settings["train"]["batch_size"]
        options: dict[str, Any] = {"batch_size": size, "device": self.device, "on_batch": self.on_batch}
        return embed(self.encoder, self.pixels.array, self.geometry, rows, flipped=flipped, **options)

    def _features(self, *, flipped: bool) -> np.ndarray:
        """What the neck sees of every photograph; looked up once: to find it, all weights of the trunk are hashed."""
        from whale_ray.retrieval.feature_cache import frozen_features

        if flipped not in self._known_features:
            self._known_features[flipped] = frozen_features(
                self.encoder,
                self.pixels,
                flipped=flipped,
                cache=self.dataset.cache.with_name("features"),
                batch_size=self.settings["train"]["batch_size"],
                device=self.device,
                on_batch=self.on_batch,
            )
        return self._known_features[flipped]
