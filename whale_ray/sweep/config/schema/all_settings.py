"""All settings of the sweep file, in the order of the settings reference."""

from __future__ import annotations

from typing import Final

from whale_ray.sweep.config.fields import Default, Setting, brief
from whale_ray.sweep.config.schema.data_settings import DATA_SETTINGS, SPLIT_SETTINGS
from whale_ray.sweep.config.schema.run_settings import BUNDLE_SETTINGS, RESOURCES_SETTINGS, TRACKING_SETTINGS
from whale_ray.sweep.config.schema.search_settings import RETRIEVAL_SETTINGS, SEARCH_SETTINGS
from whale_ray.sweep.config.schema.training_settings import LOSS_SETTINGS, MODEL_SETTINGS, TRAIN_SETTINGS

# Sections that may be a list of alternatives, and the key that names each alternative.
SELECTORS: Final = {"model": "encoder", "loss": "name"}
# Sections of a trial's settings, besides the seed.
TRIAL_SECTIONS: Final = ("data", "split", "model", "loss", "train", "resources")

SETTINGS: tuple[Setting, ...] = (
    brief("name", "folder_name", Default.REQUIRED, "name of the run folder, runs/NAME"),
    brief(
        "seed",
        "int >= 0 <= 4294967295",
        0,
        "seed of weights, batches and augmentation; as an axis: repeats",
        identity=True,
        axis=True,
    ),
    brief("keep_checkpoints", "int >= 1", 3, "number of finished trials, the best, whose weights are kept"),
    *DATA_SETTINGS,
    *SPLIT_SETTINGS,
    *MODEL_SETTINGS,
    *LOSS_SETTINGS,
    *TRAIN_SETTINGS,
    *RETRIEVAL_SETTINGS,
    *SEARCH_SETTINGS,
    *RESOURCES_SETTINGS,
    *TRACKING_SETTINGS,
    *BUNDLE_SETTINGS,
)

SECTIONS: Final = tuple(dict.fromkeys(setting.section for setting in SETTINGS if setting.section))


def section_settings(section: str) -> dict[str, Setting]:
    """Return the settings of a section by short key; of the top level for an empty name."""
    return {setting.short: setting for setting in SETTINGS if setting.section == section}
