"""One trial from settings to result: an encoder is trained on each split, then all splits are scored together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.device import keep_freed_memory, limit_threads, reserved_device, worker_resources
from whale_ray.inference.golden_images import golden_distance
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.planning.dataset import Dataset, geometry_of
from whale_ray.sweep.planning.node_checks import check_code, code_version, dataset_on_this_node
from whale_ray.sweep.planning.trial_points import Settings
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun
from whale_ray.sweep.trials.class_proxies import SplitProxies
from whale_ray.sweep.trials.embeddings_io import Views, write_embeddings
from whale_ray.sweep.trials.scoring import Scoring, figures_of, score_trial, study_figures, write_scores
from whale_ray.sweep.trials.split_trainer import SplitTrainer
from whale_ray.sweep.trials.trackers.registry import open_trackers
from whale_ray.sweep.trials.trackers.tracker import TrackedTrial, Tracker, Tracking
from whale_ray.sweep.trials.training_round import EpochRow, TrainingCurve

if TYPE_CHECKING:
    from whale_ray.learning.training.worker_group import WorkerGroup

FOLDS = "folds"


@dataclass(frozen=True)
class SweepContext:
    """Folders, data, scoring and resources that all trials of a sweep share.

    Attributes:
        folder: The run folder.
        working_folder: Folder that relative paths in settings start from.
        dataset: The photographs.
        scoring: Retrieval settings and objective.
        threads: Number of PyTorch threads per trial.
        gpus: GPUs per worker of a trial; a fraction is a share of one.
        tracking: Experiment trackers.
        workers: Number of processes that train a trial together on Ray.
        cpus: CPUs per worker of a trial.
        remote: The run folder in a run store; None if `folder` is all there is.
        poolings: `pool` and `layers` of all frozen encoders of the sweep: one pass computes the features of all.
        data_root: `data.root` of the sweep; from a URL, each node downloads the photographs.
        code: Version of the driver's code.
    """

    folder: Path
    working_folder: Path
    dataset: Dataset
    scoring: Scoring
    threads: int
    gpus: float
    tracking: Tracking
    workers: int = 1
    cpus: float = 1.0
    remote: RemoteRun | None = None
    poolings: tuple[tuple[str, int], ...] = ()
    data_root: str = ""
    code: str = field(default_factory=code_version)

    @property
    def worker_resources(self) -> dict[str, float]:
        """Amounts that Ray reserves for one worker of a trial, by Ray's resource name."""
        return worker_resources(cpus=self.cpus, gpus=self.gpus)

    def on_this_node(self, geometry: Geometry | None = None) -> SweepContext:
        """Return the context with the photographs in the folders of this node.

        Args:
            geometry: Geometry of the trial that needs it.

        Raises:
            UnfitNodeError: If this node lacks them, has others, or has other code than the driver.
        """
        check_code(self.code)
        return dataclasses.replace(self, dataset=dataset_on_this_node(self.dataset, self.data_root, geometry))

    def trial_folder(self, trial: str) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / trial

    def read_settings(self, trial: str) -> tuple[str, Settings]:
        """Return the kind of a trial and its settings, those that its version did not have yet completed."""
        written = json.loads((self.trial_folder(trial) / "settings.json").read_text())
        return written["kind"], completed(written["settings"])


class TrialRun:
    """Trains, scores and records one trial in this process.

    Args:
        trial: ID of the trial; its settings.json exists.
        context: What all trials of the sweep share.
        folder: Folder for the results; default: the trial's folder.
        device: Name of a PyTorch device; default: the share of a GPU that is reserved for the trial.
        on_batch: Called before each batch, in training and embedding.
        workers: The workers that train together; None for this process alone.
        record: Kind and settings of the trial; None reads them from its folder.

    Attributes:
        settings: Settings of the trial.
        earlier_seconds: Training time before this process, in seconds.
    """

    def __init__(
        self,
        trial: str,
        context: SweepContext,
        *,
        folder: Path | None = None,
        device: str | None = None,
        on_batch: Callable[[], None] = lambda: None,
        workers: WorkerGroup | None = None,
        record: tuple[str, Settings] | None = None,
    ) -> None:
        import torch

        limit_threads(context.threads)
        keep_freed_memory()
        self.context = context
        self.folder = folder or context.trial_folder(trial)
        self.trial = trial
        self.on_batch, self.workers = on_batch, workers
        kind, self.settings = record or context.read_settings(trial)
        self.scoring = context.scoring.of(kind)
        self.device = torch.device(device or reserved_device(context.gpus))
        self.earlier_seconds = 0.0
        self.pseudo_labels: int | None = None

    def run(self, report: Callable[[EpochRow], object]) -> dict[str, Any]:
        """Train, score and write the trial, and return its result.

        Args:
            report: Called with the row of each new epoch.
        """
        with self._tracker() as tracker:
            result = self._result(report, tracker)
            tracker.summarise({key: value for key, value in result.items() if value is not None})
        return result

    def retrain(self, report: Callable[[EpochRow], None]) -> None:
        """Train and write the encoder and its embeddings, without scores.

        Args:
            report: Called with the row of each new epoch.
        """
        trainer = self._trainer(self.context.dataset, self.folder)
        trainer.train(report)
        views = trainer.embed_views()
        trainer.save_weights()
        write_embeddings(views, trainer.table, self.folder, _of_split(0, trainer.class_proxies()))
        trainer.drop_training_state()

    def assist(self) -> None:
        """Train as a further worker beside the first one, which runs `run`."""
        for split in self.context.dataset.splits:
            self._trainer(split, self.folder).train(lambda row: None)

    @cached_property
    def pixels(self) -> DecodedImages:
        """The decoded photographs, opened once for all splits."""
        return self.context.dataset.pixels(geometry_of(self.settings["data"], self.settings["train"]))

    def _result(self, report: Callable[[EpochRow], object], tracker: Tracker) -> dict[str, Any]:
        curve = TrainingCurve(self.folder, report, tracker)
        train = self._train_single if self.context.dataset.folds == 1 else self._train_folds
        views, proxies, speed = train(curve)
        table = self.context.dataset.scored()
        evaluation = score_trial(
            views, table, scoring=self.scoring, settings=self.settings, run=self.context.folder, proxies=proxies
        )
        named = (table["individual"] != self.settings["data"]["unknown_label"]).to_numpy()
        write_scores(evaluation, self.folder)
        write_embeddings(views, table, self.folder, proxies)
        shutil.rmtree(self.folder / FOLDS, ignore_errors=True)
        return {
            **figures_of(evaluation, self.scoring),
            **(study_figures(views, table) if self.settings["split"]["kind"] == "halves" else {}),
            **({} if self.pseudo_labels is None else {"pseudo_labels": self.pseudo_labels}),
            **curve.last_note(),
            "epochs": len(curve.epochs),
            "embedding_size": views["plain"].shape[1],
            "golden_distance": golden_distance(views["plain"][named]),
            "milliseconds_per_image": 1000.0 / speed,
        }

    def _train_single(self, curve: TrainingCurve) -> tuple[Views, SplitProxies, float]:
        trainer = self._trainer(self.context.dataset, self.folder)
        curve.add_training(trainer.train(curve.log_epoch))
        self._add_totals(trainer)
        trainer.save_weights()
        return trainer.embed_views(), _of_split(0, trainer.class_proxies()), trainer.images_per_second()

    def _train_folds(self, curve: TrainingCurve) -> tuple[Views, SplitProxies, float]:
        """Train each fold once, without keeping its weights, and join the embeddings of all folds."""
        parts: list[Views] = []
        proxies: dict[int, ClassProxies] = {}
        for number, split in enumerate(self.context.dataset.splits):
            trainer = self._trainer(split, self.folder / FOLDS / str(number))
            curve.add_training(trainer.train(curve.log_epoch), fold=number)
            self._add_totals(trainer)
            parts.append(trainer.embed_views())
            proxies |= _of_split(number, trainer.class_proxies())
        views = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return views, proxies, trainer.images_per_second()

    def _add_totals(self, trainer: SplitTrainer) -> None:
        self.earlier_seconds += trainer.earlier_seconds
        if trainer.pseudo_labels is not None:
            self.pseudo_labels = (self.pseudo_labels or 0) + trainer.pseudo_labels

    def _trainer(self, dataset: Dataset, folder: Path) -> SplitTrainer:
        return SplitTrainer(
            self.settings,
            dataset,
            folder,
            pixels=self.pixels,
            first=self.scoring.retrieval[0],
            objective=self.scoring.objective,
            device=self.device,
            on_batch=self.on_batch,
            workers=self.workers,
            poolings=self.context.poolings,
        )

    def _tracker(self) -> AbstractContextManager[Tracker]:
        on_gpu = self.device.type == "cuda"
        trial = TrackedTrial(trial=self.trial, settings=self.settings, folder=self.folder, on_gpu=on_gpu)
        return open_trackers(self.context.tracking, trial)


def _of_split(split: int, proxies: ClassProxies | None) -> dict[int, ClassProxies]:
    return {} if proxies is None else {split: proxies}
