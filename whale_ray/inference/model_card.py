"""Model card of a bundle: metadata for the Hugging Face Hub in YAML, then scores, data and use in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whale_ray.retrieval.evaluation.decisions import read_decision
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES
from whale_ray.retrieval.search.retrieval_settings import chosen_setting

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


SCORES = ("recall@1", "recall@4", "recall@16", "map@5", *reversed(INDIVIDUAL_SCORES), "auroc", "baks", "baus")
UNSTATED = "other"
"""License of a bundle whose sweep names none, as the hub calls it."""
_TASK = "image-feature-extraction"
_HUB_ENCODER = re.compile(r"(?:hf:|timm:hf-hub:)([\w-][\w.-]*/[\w.-]+)(?:@.*)?")
_TAGS = ("whale-ray", "animal-re-identification", "image-retrieval", "metric-learning")


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the model card of a manifest: YAML metadata between lines of `---`, then Markdown."""
    return f"---\n{card_metadata(manifest).to_yaml()}\n---\n{_markdown(manifest)}"


def card_metadata(manifest: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata that the Hugging Face Hub reads from a model card.

    The license is that of the setting `bundle.license`, else `other`. The data set is named by its fingerprint.
    """
    from huggingface_hub import EvalResult, ModelCardData

    scores = manifest["scores"]
    measured = [name for name in SCORES if scores.get(name) is not None]
    results = [
        EvalResult(
            task_type=_TASK,
            task_name="Identification of individuals",
            dataset_type=str(manifest["data_fingerprint"]),
            dataset_name=f"validation photographs of data {manifest['data_fingerprint']}",
            metric_type=name,
            metric_value=float(scores[name]),
            metric_args=_interval(scores, name),
        )
        for name in measured
    ]
    return ModelCardData(
        license=str(manifest.get("license", UNSTATED)),
        library_name="whale-ray",
        pipeline_tag=_TASK,
        tags=list(_TAGS),
        base_model=_base_models(manifest) or None,
        metrics=measured or None,
        model_name=manifest["id"],
        eval_results=results or None,
    )


def _interval(scores: Mapping[str, Any], name: str) -> dict[str, float] | None:
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return None if low is None or high is None else {"low": float(low), "high": float(high), "confidence": 0.95}


def _base_models(manifest: Mapping[str, Any]) -> list[str]:
    """Return the hub ids of the pretrained encoders that the training began with; folders are not among them."""
    pretrained = [str(member["name"]) for member in _members(manifest) if member.get("weights") == "pretrained"]
    found = [match[1] for name in dict.fromkeys(pretrained) if (match := _HUB_ENCODER.fullmatch(name))]
    return [name for name in found if not Path(name).is_dir()]


def _markdown(manifest: Mapping[str, Any]) -> str:
    scores = manifest["scores"]
    shown = [name for name in SCORES if name in scores or name not in INDIVIDUAL_SCORES]  # absent in older bundles
    rows = [f"| {name} | {_figure(scores, name)} |" for name in shown]
    encoders = " and ".join(str(member["name"]) for member in _members(manifest))
    retrieval = ", ".join(f"{key} {value}" for key, value in sorted(manifest["retrieval"].items()) if value is not None)
    retrained = bool(manifest.get("retrained_on_all"))
    return "\n".join(
        [
            f"# {manifest['id']}",
            "",
            f"Recognises {manifest['individuals']} individuals from {manifest['images']} photographs.",
            "",
            f"- Encoder: {encoders}, {manifest['embedding_size']} dimensions",
            f"- Retrieval: {retrieval}",
            *_keypoint_line(manifest),
            f"- Probably new: {_what_is_new(manifest)}",
            f"- Data: fingerprint {manifest['data_fingerprint']}",
            *_runtime_line(manifest),
            "",
            f"Measured on {scores['known_queries']} known queries and {scores['queries']} validation photographs,",
            f"with the {manifest['measured_gallery']} named training photographs as gallery; the gallery here holds",
            "every named photograph. The setting and the threshold were chosen with cross-fitting.",
            *(["The weights were then trained again on all photographs, at the same settings."] * retrained),
            "",
            "| score | value, 95 % interval, ceiling, chance |",
            "|---|---|",
            *rows,
            "",
            *_mix(scores),
            *_by_species(manifest),
            "A low score on animals of another species, catalogue or camera is to be expected: measure it there first.",
            "",
        ]
    )


def _members(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(manifest["encoder"].get("members", [manifest["encoder"]]))


def _mix(scores: Mapping[str, Any]) -> list[str]:
    """Return the table of scores by gallery photographs of the individual; nothing without known queries."""
    rows = [row for row in scores.get("mix") or () if row["queries"]]
    if not rows:
        return []
    names = ("recall@1", "map@5", *reversed(INDIVIDUAL_SCORES))
    head = ("gallery photographs", "individuals", "queries", *names)
    lines = [
        (row["images"], row["individuals"], row["queries"], *(f"{row[name]:.3f}" for name in names)) for row in rows
    ]
    return [
        "The scores hold for this mix of known individuals:",
        "",
        *(f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *lines)),
        "",
    ]


def _by_species(manifest: Mapping[str, Any]) -> list[str]:
    """Return the table of scores and thresholds by species; nothing without species."""
    rows = [row for row in manifest["scores"].get("by_species") or () if row["species"]]
    if not rows:
        return []
    own, common = manifest.get("species_thresholds", {}), manifest["threshold"]
    lines = []
    for row in rows:
        values = [row["recall@1"], row["map@5"], own.get(row["species"], common)]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append((row["species"].replace("|", "\\|"), row["individuals"], row["queries"], *cells))
    head = ("species", "individuals", "queries", "recall@1", "map@5", "threshold")
    return [
        "Each species is searched by itself:",
        "",
        *(f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *lines)),
        "",
    ]


def _runtime_line(manifest: Mapping[str, Any]) -> list[str]:
    named = manifest.get("runtime")
    return [f"- Runs on: {named['name']}: {named['reason']}"] if named else []


def _keypoint_line(manifest: Mapping[str, Any]) -> list[str]:
    if chosen_setting(manifest["retrieval"]).local == "none":
        return []
    size = manifest.get("keypoint_bytes", 0)
    return [
        f"- Keypoints: {manifest['retrieval']['local']}, fused with the embedding by logistic regression; "
        f"{size / 1e6:.1f} MB for the gallery, {size / max(manifest['images'], 1) / 1e3:.0f} kB a photograph"
    ]


def _what_is_new(manifest: Mapping[str, Any]) -> str:
    threshold = manifest["threshold"]
    if (decision := read_decision(manifest.get("decision"))) is not None:
        return f"where that is more probable than not, if {decision.assumed_share:.0%} of the animals were new"
    if threshold is None:
        return "no threshold: nothing in the data was unknown"
    if chosen_setting(manifest["retrieval"]).scores_are_cosines:
        return f"where the first individual is farther than {1 - threshold:.3g} (cosine below {threshold:.6g})"
    return f"where what ranks the first individual, here no plain cosine, is below {threshold:.6g}"


def _figure(scores: Mapping[str, Any], name: str) -> str:
    if scores.get(name) is None:
        return f"not measured: {scores.get('reason', 'no known query')}"
    parts = [f"{scores[name]:.3f}"]
    if scores.get(f"{name}_low") is not None:
        parts.append(f"{scores[f'{name}_low']:.3f} to {scores[f'{name}_high']:.3f}")
    for beside in ("ceiling", "chance", "trivial"):
        if scores.get(f"{beside}/{name}") is not None:
            parts.append(f"{beside} {scores[f'{beside}/{name}']:.3f}")
    return ", ".join(parts)
