"""Schema of the sections `resources`, `tracking` and `bundle`: how trials run, and what is kept of them."""

from __future__ import annotations

from whale_ray.sweep.config.fields import Setting, brief

RESOURCES_SETTINGS: tuple[Setting, ...] = (
    brief("resources.cpus", "float > 0", 1.0, "cores of a trial, or of each of its workers; fractions share one"),
    brief(
        "resources.gpus",
        "float >= 0",
        0.0,
        "GPUs of a trial, or of each of its workers, at most 1; fractions share one",
    ),
    brief("resources.workers", "int >= 1", 1, "processes that train a trial together on Ray; they share each batch"),
    brief(
        "resources.wait_minutes", "float >= 0", 0.0, "minutes to wait for nodes if no trial fits on the Ray cluster yet"
    ),
    brief(
        "resources.stall_minutes",
        "float > 0 or null",
        30.0,
        "minutes without a heartbeat after which a trial is stopped; null: never",
    ),
    brief("resources.min_free_gb", "float >= 0", 1.0, "free disk space below which no trial starts"),
)

TRACKING_SETTINGS: tuple[Setting, ...] = (
    brief("tracking.wandb", "choice off offline online", "off", "Weights & Biases: a run for each trial"),
    brief("tracking.wandb_project", "text", "whale_ray", "W&B project"),
    brief(
        "tracking.mlflow",
        "server_url or null",
        None,
        "URL of an MLflow server: a run for each trial, nested under a run of the sweep; null: none",
    ),
    brief("tracking.mlflow_experiment", "text", "whale_ray", "MLflow experiment"),
)

BUNDLE_SETTINGS: tuple[Setting, ...] = (
    brief("bundle.retrain_on_all", "bool", False, "train the winner again on all photographs"),
    brief("bundle.examples", "int >= 0 <= 100", 6, "labelled photographs for the web page"),
    brief("bundle.thumbnails", "bool", True, "small JPEGs of the gallery"),
    brief(
        "bundle.license",
        "text",
        "other",
        "license of photographs and weights on the model card, an identifier of the Hugging Face Hub: cc-by-4.0",
    ),
    brief(
        "bundle.runtime",
        "choice auto torch",
        "auto",
        "runtime of the encoder in the service; auto: the fastest by measurement",
    ),
)
