"""Schema of the sweep file: every key with type, limits, default and meaning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.formats.format_names import AUTO, FORMAT_NAMES
from whale_ray.learning.losses.registry import LOSSES
from whale_ray.retrieval.evaluation.score_names import OBJECTIVES
from whale_ray.retrieval.search.retrieval_options import RETRIEVAL_OPTIONS
from whale_ray.sweep.config.fields import Default, Setting, brief

SPEED: Final = "milliseconds_per_image"
# Parameter of a kind of split, for the short form `split: {kfold: 5}`.
SPLIT_VALUES: Final = {"kfold": "folds", "open_set": "share"}

# Loss of a trial without training.
NO_LOSS: Final = "none"
# Sections that may be a list of alternatives, and the key that names each alternative.
SELECTORS: Final = {"model": "encoder", "loss": "name"}
# Sections of a trial's settings, besides the seed.
TRIAL_SECTIONS: Final = ("data", "split", "model", "loss", "train", "resources")


_part = partial(brief, identity=True)
_axis = partial(brief, identity=True, axis=True)
_free = partial(brief, axis=True)

SETTINGS: tuple[Setting, ...] = (
    brief("name", "folder_name", Default.REQUIRED, "name of the run folder, runs/NAME"),
    _axis("seed", "int >= 0 <= 4294967295", 0, "seed of weights, batches and augmentation; as an axis: repeats"),
    brief("keep_checkpoints", "int >= 1", 3, "number of finished trials, the best, whose weights are kept"),
    brief("data.root", "text", "data", "folder of the table and the photographs (option --data)"),
    brief(
        "data.format",
        " ".join(("choice", AUTO, *FORMAT_NAMES)),
        AUTO,
        "format of the data set; auto: the first of these that is recognised. `whale-ray audit` says which and why",
    ),
    brief("data.table", "text", "train.csv", "the table or JSON file inside it (kaggle, wildlife, coco)"),
    brief("data.image_folder", "text", "train", "the folder of photographs inside it"),
    brief("data.image_column", "text", "Image", "column of file names"),
    brief("data.label_column", "text", "Id", "column of individuals"),
    brief("data.group_column", "text or null", None, "column of encounters or days, kept together by the split"),
    replace(
        _part(
            "data.group_by",
            "choice auto twins",
            "auto",
            "encounters where no column names them; auto: photographs of an individual with alike pixels or near times;"
            " twins: copies of one picture only",
        ),
        earlier="twins",
    ),
    brief("data.date_column", "text or null", None, "column of dates; null: the EXIF date of each photograph"),
    brief("data.view_column", "text or null", None, "column of views, such as left or dorsal, for audit and export"),
    brief("data.species_column", "text or null", None, "column of species, for audit and export"),
    brief(
        "data.place_column", "text or null", None, "column of places; photographs of one day and place are an encounter"
    ),
    brief(
        "data.boxes",
        "text or null",
        None,
        "file of boxes to crop to: Image,x0,y0,x1,y1, COCO, MegaDetector",
    ),
    _part("data.unknown_label", "text", "new_whale", "label of unknown individuals"),
    _axis("data.image_size", "size", 224, "256, or '256x512' as height x width, in pixels"),
    _axis("data.resize", "choice pad stretch", "pad", "pad keeps the aspect, stretch does not"),
    brief(
        "data.on_bad_image",
        "choice set_aside error",
        "set_aside",
        "set_aside: list unreadable photographs; error: end the sweep",
    ),
    brief(
        "data.image_bytes",
        "int >= 1",
        MAX_BYTES,
        "most bytes of a photograph; larger files are unreadable (a service has its own image_bytes, 32 MiB)",
    ),
    _part("data.val_fraction", "float > 0 < 1", 0.2, "share of each individual's photographs that validates"),
    _part(
        "split.kind",
        "choice stratified kfold open_set by_group by_time halves",
        "stratified",
        "`split: by_group`, `split: by_time`, `split: {kfold: 5}` and `split: {open_set: 0.2}` are short forms",
    ),
    _part("split.folds", "int >= 2 <= 20", 5, "kfold: number of folds; each trial trains once per fold"),
    _part(
        "split.share",
        "float > 0 < 1",
        0.1,
        "share of individuals held out as new, by open_set or if no photograph has the unknown label",
    ),
    _part("split.seed", "int >= 0 <= 4294967295", 0, "seed of the split; left out: as `seed` (its first value)"),
    _axis("model.encoder", "encoder", Default.REQUIRED, "network that computes the embedding"),
    _axis(
        "model.embedding_size",
        "int >= 2 <= 65536 or null",
        512,
        "dimensions of the embedding; null: those of the trunk",
    ),
    _axis(
        "model.pool",
        "choice auto avg gem cls",
        "auto",
        "pooling of the features; auto: cls if the encoder has a class token, else avg",
    ),
    _axis(
        "model.neck", "choice linear bnneck none", "linear", "layer after the pooling; none needs embedding_size null"
    ),
    _axis("model.weights", "weights", "pretrained", "initial weights of the trunk"),
    _axis("model.freeze", "choice none trunk", "none", "trunk: do not train the trunk"),
    _axis(
        "model.layers",
        "int >= 1 <= 8",
        1,
        "number of the trunk's last feature map sizes that are pooled and concatenated",
    ),
    _axis(
        "loss.name",
        " ".join(("choice", *LOSSES, NO_LOSS)),
        Default.REQUIRED,
        "name of the loss; its parameters are keys of `loss` too, see below. none: with train.epochs 0",
    ),
    _axis("train.epochs", "int >= 0", 10, "passes over the training photographs; 0: no training"),
    _axis("train.batch_size", "int >= 2", 64, "photographs per step"),
    _axis(
        "train.sampler",
        "choice pk balanced shuffle",
        "pk",
        "pk: some individuals, some images of each; balanced: all individuals equally often; shuffle: random order",
    ),
    _axis("train.images_per_individual", "int >= 1", 4, "images of an individual in a batch (not with shuffle)"),
    _axis("train.learning_rate", "float > 0", 0.0001, "learning rate of the trunk (AdamW)"),
    _axis(
        "train.head_learning_rate",
        "float > 0 or null",
        None,
        "learning rate of pooling and neck; null: that of the trunk",
    ),
    _axis(
        "train.proxy_learning_rate",
        "float > 0 or null",
        None,
        "learning rate of the proxies; null: 100 times that of the trunk",
    ),
    _axis(
        "train.layer_decay",
        "float > 0 <= 1",
        1.0,
        "ratio of the learning rates of a block of the trunk and the next block",
    ),
    _axis("train.head_epochs", "int >= 0", 0, "first epochs, which train head and proxies only"),
    _axis("train.weight_decay", "float >= 0", 0.0001, "weight decay (AdamW)"),
    _axis("train.warmup_epochs", "float >= 0", 1.0, "epochs in which the learning rates rise from 0"),
    _axis("train.schedule", "choice cosine constant", "cosine", "the learning rates after the warm-up"),
    _axis("train.memory", "int >= 0", 0, "embeddings of earlier batches that each is compared with (pair losses)"),
    _axis("train.ema", "float >= 0 < 1", 0.0, "decay of the weights' moving average, scored and kept; 0: none"),
    _axis("train.clip", "float > 0 or null", 10.0, "largest norm of the gradient; null: no limit"),
    _part(
        "train.precision",
        "choice auto fp32 bf16",
        "auto",
        "number format of training; auto: bf16 if it is faster on this device. Embeddings are computed in fp32",
    ),
    _axis(
        "train.new_whale",
        "choice ignore negative",
        "ignore",
        "unknown individuals: left out, or negatives of every individual",
    ),
    _axis(
        "train.negatives_share",
        "float > 0 < 1 or null",
        None,
        "their share of a batch (`new_whale: negative`); null: their share of the photographs",
    ),
    _axis(
        "train.pseudo_labels",
        "float > 0.5 < 1 or null",
        None,
        "smallest probability of a pseudo-label that a second round trains on; null: no second round",
    ),
    _axis(
        "train.pseudo_epochs", "int >= 1", 5, "epochs of the second round, on labelled and pseudo-labelled photographs"
    ),
    _axis(
        "train.flip",
        "choice none augment new_individual",
        "none",
        "mirrored photographs: the same individual, or another one",
    ),
    _axis("train.affine", "float >= 0 <= 1", 0.3, "strength of shifts, turns and zooms; 0 is off"),
    _axis("train.colour", "float >= 0 <= 1", 0.3, "strength of changes of light and colour; 0 is off"),
    _axis("train.blur", "float >= 0 <= 1", 0.0, "strength of blur; 0 is off"),
    _axis("train.erasing", "float >= 0 <= 1", 0.0, "strength of erased patches; 0 is off"),
    _part("train.keep", "choice last best", "last", "epoch whose weights are scored and kept"),
    _part("train.evaluate_every", "int >= 1", 1, "epochs between two evaluations"),
    *(_free(f"retrieval.{one.name}", one.takes, one.default, one.meaning) for one in RETRIEVAL_OPTIONS),
    brief(
        "search.strategy",
        "choice grid screen random optuna",
        "grid",
        "grid: every combination; screen: a screening design of two values per axis; others: drawn trials",
    ),
    brief(
        "search.trials",
        "int >= 1",
        20,
        "number of drawn trials (not with a grid); size of a screen, by default the smallest",
    ),
    brief(
        "search.hours",
        "float > 0 or null",
        None,
        "hours of all sessions together, after which no trial starts; null: no limit",
    ),
    brief("search.objective", " ".join(("choice", *OBJECTIVES)), "recall@1", "score to maximize"),
    brief(
        "search.also",
        f"choice none {SPEED}",
        "none",
        f"second objective, minimized; `objective: [recall@1, {SPEED}]` is short for both",
    ),
    brief(
        "search.prefer",
        " ".join(("choice none", *OBJECTIVES, SPEED)),
        "none",
        "objective that ranks the trials and chooses the bundle; none: the first",
    ),
    brief("search.scheduler", "choice none asha", "none", "asha stops weak trials early, compared within each encoder"),
    brief(
        "search.resource",
        "choice epochs seconds",
        "epochs",
        "unit of `grace` (asha)",
    ),
    brief("search.grace", "float > 0", 1.0, "resource that every trial gets before it may be stopped (asha)"),
    brief("search.reduction_factor", "int >= 2", 3, "one trial in this many continues (asha)"),
    brief("search.repeats", "int >= 0", 0, "number of new seeds for each finalist; the best mean wins"),
    brief("search.finalists", "int >= 1", 3, "number of best trials that are repeated"),
    brief(
        "search.ensemble",
        "int >= 0 <= 16",
        0,
        "number of trials whose embeddings are joined at the end, the best of each encoder first; 0: no ensemble",
    ),
    brief("search.seed", "int >= 0 <= 4294967295", 0, "seed of the draws; left out: as `seed` (its first value)"),
    brief("resources.cpus", "float > 0", 1.0, "cores of a trial; fractions share one"),
    brief("resources.gpus", "float >= 0", 0.0, "GPUs of a trial, at most 1; fractions share one"),
    brief(
        "resources.stall_minutes",
        "float > 0 or null",
        30.0,
        "minutes without a heartbeat after which a trial is stopped; null: never",
    ),
    brief("resources.min_free_gb", "float >= 0", 1.0, "free disk space below which no trial starts"),
    brief("tracking.wandb", "choice off offline online", "off", "Weights & Biases: a run for each trial"),
    brief("tracking.wandb_project", "text", "whale_ray", "W&B project"),
    brief("bundle.retrain_on_all", "bool", False, "train the winner again on all photographs"),
    brief("bundle.examples", "int >= 0 <= 100", 6, "labelled photographs for the web page"),
    brief("bundle.thumbnails", "bool", True, "small JPEGs of the gallery"),
    brief(
        "bundle.runtime",
        "choice auto torch",
        "auto",
        "runtime of the encoder in the service; auto: the fastest by measurement",
    ),
)

SECTIONS: Final = tuple(dict.fromkeys(setting.section for setting in SETTINGS if setting.section))


def section_settings(section: str) -> dict[str, Setting]:
    """Return the settings of a section by short key; of the top level for an empty name."""
    return {setting.short: setting for setting in SETTINGS if setting.section == section}
