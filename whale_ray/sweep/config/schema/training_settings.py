"""Schema of the sections `model`, `loss` and `train`. The parameters of each loss are in `loss_schema`."""

from __future__ import annotations

from functools import partial
from typing import Final

from whale_ray.learning.losses.registry import LOSSES
from whale_ray.sweep.config.fields import Default, Setting, brief

# Loss of a trial without training.
NO_LOSS: Final = "none"

_part = partial(brief, identity=True)
_axis = partial(brief, identity=True, axis=True)

MODEL_SETTINGS: tuple[Setting, ...] = (
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
        "pooling of the features; auto: that of the model (timm), cls if the encoder has a class token, else avg",
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
)

LOSS_SETTINGS: tuple[Setting, ...] = (
    _axis(
        "loss.name",
        " ".join(("choice", *LOSSES, NO_LOSS)),
        Default.REQUIRED,
        "name of the loss; its parameters are keys of `loss` too, see below. none: with train.epochs 0",
    ),
)

TRAIN_SETTINGS: tuple[Setting, ...] = (
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
        "number format of training; auto: bf16 if it is faster for this encoder and device. Embeddings: fp32",
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
)
