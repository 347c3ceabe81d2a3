"""Training of one encoder on one split of a trial, in one round or, with pseudo-labels, in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.trial_points import Settings, encoder_of, epochs_of
from whale_ray.sweep.run_folder.checkpoints import SECOND, Checkpoint, drop_state, keep_weights
from whale_ray.sweep.trials.class_proxies import learned_proxies
from whale_ray.sweep.trials.embedder import TrialEmbedder
from whale_ray.sweep.trials.embeddings_io import Views
from whale_ray.sweep.trials.pseudo_labels import LABELS, hold_out, label_unknown, read_labels
from whale_ray.sweep.trials.scoring import score_epoch
from whale_ray.sweep.trials.training_round import EpochRow, resume_training, train_round
from whale_ray.sweep.trials.training_setup import begin_training, build_batches, build_training_loss

if TYPE_CHECKING:
    import torch
    from torch import nn

    from whale_ray.data.batches import Batches
    from whale_ray.learning.encoders.registry import Encoder
    from whale_ray.learning.training.loop import Training
    from whale_ray.learning.training.worker_group import WorkerGroup

OnEpoch = Callable[[EpochRow], None]


class SplitTrainer:
    """Trains an encoder on the `train` photographs of one split and resumes after an interruption.

    With `train.pseudo_labels`, a second round also trains on photographs of unknown individuals, with the labels that
    the encoder of the first round gives them.

    Args:
        settings: Settings of the trial.
        dataset: The photographs of the split.
        folder: Folder of checkpoint, epochs.csv and pseudo-labels.
        pixels: Decoded photographs of the data set.
        first: Retrieval setting that scores epochs.
        objective: Name of the score that decides which epoch is the best.
        device: Device of the encoder.
        on_batch: Called before each batch, in training and embedding.
        workers: The workers that train together; None for this process alone. Only the first one scores and writes.
        poolings: As in `TrialEmbedder`.

    Attributes:
        encoder: The encoder; after `train`, with the weights to keep.
        table: A row for each photograph that is embedded, as of `Dataset.scored`.
        earlier_seconds: Training time before this process, in seconds.
        pseudo_labels: Number of pseudo-labels; None without a second round.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        folder: Path,
        *,
        pixels: DecodedImages,
        first: RetrievalSetting,
        objective: str,
        device: torch.device,
        on_batch: Callable[[], None],
        workers: WorkerGroup | None = None,
        poolings: Sequence[tuple[str, int]] = (),
    ) -> None:
        import torch

        from whale_ray.learning.training.worker_group import SINGLE_WORKER

        self.workers = workers or SINGLE_WORKER
        self.settings, self.dataset, self.folder = settings, dataset, folder
        self.first, self.objective, self.device = first, objective, device
        self.rows = dataset.rows("train", "val")
        self.table = dataset.scored()
        self.earlier_seconds = 0.0
        self.pseudo_labels: int | None = None
        self.class_proxies: Callable[[], ClassProxies | None] = lambda: None
        self.embedder = TrialEmbedder(
            pixels,
            feature_cache=dataset.cache.with_name("features"),
            batch_size=settings["train"]["batch_size"],
            device=device,
            on_batch=on_batch,
            poolings=poolings,
        )
        torch.manual_seed(settings["seed"])
        self.encoder = encoder_of(settings).to(device)

    def train(self, on_epoch: OnEpoch) -> list[EpochRow]:
        """Train to the end and return the rows of all epochs, those of earlier processes included.

        Args:
            on_epoch: Called with the row of each new epoch.
        """
        train = self.settings["train"]
        if not train["epochs"]:
            return []
        rows, labels, _ = self.dataset.training_rows(negatives=train["new_whale"] == "negative")
        if train["pseudo_labels"]:
            return self._train_two_rounds(rows, labels, on_epoch)
        checkpoint = self._checkpoint()
        training, epochs = self._first_round(rows, labels, checkpoint, on_epoch)
        checkpoint.restore_best(self.encoder, training.loss)
        return epochs

    def embed_views(self) -> Views:
        """Return the embeddings of the plain and the flipped images, in the order of `table`."""
        return self.embedder.embed_views(self.encoder, self.rows)

    def images_per_second(self) -> float:
        """Return the measured speed from pixels to embeddings."""
        return self.embedder.images_per_second(self.encoder, self.rows)

    def save_weights(self) -> None:
        """Write the weights; the training state stays until `drop_training_state`."""
        keep_weights(self.encoder, self.folder / "checkpoint")

    def drop_training_state(self) -> None:
        """Remove what only training needs."""
        drop_state(self.folder / "checkpoint")

    def _train_two_rounds(self, rows: np.ndarray, labels: np.ndarray, on_epoch: OnEpoch) -> list[EpochRow]:
        seed = self.settings["seed"]
        first, second = self._checkpoint(), self._checkpoint(SECOND)
        held = hold_out(self.dataset, seed=seed)
        kept = ~np.isin(rows, held)
        training, epochs = self._first_round(rows[kept], labels[kept], first, on_epoch)
        are_known = second.exists and (self.folder / LABELS).exists()
        found, names = self.workers.from_first(lambda: self._pseudo_labels(held, are_known=are_known))
        codes = dict(zip(self.dataset.table["individual"].to_numpy()[rows], labels, strict=True))
        guessed = np.array([codes[name] for name in names], dtype=np.int64)
        batches = self._build_batches(np.append(rows, found), np.append(labels, guessed), seed=seed + 1)
        begin = partial(self._begin_second_round, training, first, batches)
        training, epochs = self._run_round(begin, batches, second, epochs, on_epoch)
        # The best epoch of the second round, or of the first if the second never scored one.
        first.restore_best(self.encoder, training.loss)
        second.restore_best(self.encoder, training.loss)
        return epochs

    def _first_round(
        self, rows: np.ndarray, labels: np.ndarray, checkpoint: Checkpoint, on_epoch: OnEpoch
    ) -> tuple[Training, list[EpochRow]]:
        batches = self._build_batches(rows, labels, seed=self.settings["seed"])
        return self._run_round(partial(self._begin_first_round, batches), batches, checkpoint, [], on_epoch)

    def _run_round(
        self,
        begin: Callable[[], Training],
        batches: Batches,
        checkpoint: Checkpoint,
        before: list[EpochRow],
        on_epoch: OnEpoch,
    ) -> tuple[Training, list[EpochRow]]:
        """Resume and finish a round; `before` are the rows of the round before, which the result includes."""
        training, done, note = resume_training(begin, checkpoint, rebuild=self._rebuild_encoder, workers=self.workers)
        self.encoder = training.outcome
        self.class_proxies = partial(
            learned_proxies,
            training.loss,
            self.table,
            num_classes=batches.num_classes,
            unknown_label=self.dataset.unknown_label,
        )
        self.earlier_seconds = sum(row["seconds"] for row in done) or self.earlier_seconds
        epochs = train_round(
            training,
            batches,
            epochs=done or before,
            offset=len(before),
            checkpoint=checkpoint,
            objective=self.objective,
            folder=self.folder,
            score=self._score,
            on_epoch=lambda row: on_epoch(row | note),
        )
        return training, epochs

    def _rebuild_encoder(self) -> None:
        import torch

        torch.manual_seed(self.settings["seed"])
        self.encoder = encoder_of(self.settings).to(self.device)

    def _begin_first_round(self, batches: Batches) -> Training:
        train = self.settings["train"]
        loss = build_training_loss(
            batches,
            loss=self.settings["loss"],
            embedding_size=self.encoder.embedding_size,
            memory=train["memory"],
        )
        return self._begin(self.encoder, loss, batches, train)

    def _begin_second_round(self, first: Training, checkpoint: Checkpoint, batches: Batches) -> Training:
        """Return a training from the weights of the first round's last epoch, with a new schedule."""
        checkpoint.load(first)
        first.encoder.load_state_dict(first.outcome.state_dict())
        train = self.settings["train"]
        epochs = train["pseudo_epochs"]
        schedule = {"epochs": epochs, "warmup_epochs": min(train["warmup_epochs"], epochs), "head_epochs": 0}
        return self._begin(first.encoder, first.loss, batches, train | schedule)

    def _begin(self, encoder: Encoder, loss: nn.Module, batches: Batches, train: dict[str, Any]) -> Training:
        seed, device = self.settings["seed"], self.device
        return begin_training(encoder, loss, batches, train=train, seed=seed, device=device, workers=self.workers)

    def _pseudo_labels(self, held: np.ndarray, *, are_known: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and individuals of the pseudo-labels, read from the file if they are known already."""
        if not are_known:
            vectors = self.embedder.embed(self.encoder, self.dataset.rows("train"), flipped=False)
            least = self.settings["train"]["pseudo_labels"]
            label_unknown(self.dataset, vectors, held, least=least, folder=self.folder)
        found, names = read_labels(self.dataset, self.folder)
        self.pseudo_labels = len(found)
        return found, names

    def _score(self, number: int) -> dict[str, Any]:
        """Return the scores of the first retrieval setting, if this epoch is evaluated."""
        is_due = number % self.settings["train"]["evaluate_every"] == 0 or number == epochs_of(self.settings)
        if not is_due or not len(self.dataset.rows("val")):
            return {}
        views = {"plain": self.embedder.embed(self.encoder, self.rows, flipped=False)}
        if self.first.flip == "average":
            views["flip"] = self.embedder.embed(self.encoder, self.rows, flipped=True)
        proxies = self.class_proxies() if self.first.classifier_weight else None
        return score_epoch(views, self.table, setting=self.first, settings=self.settings, proxies=proxies)

    def _checkpoint(self, *below: str) -> Checkpoint:
        folder = self.folder.joinpath("checkpoint", *below)
        return Checkpoint(folder, keep_best=self.settings["train"]["keep"] == "best")

    def _build_batches(self, rows: np.ndarray, labels: np.ndarray, *, seed: int) -> Batches:
        train = self.settings["train"]
        return build_batches(
            self.encoder, rows, labels, train=train, seed=seed, embedder=self.embedder, workers=self.workers
        )
