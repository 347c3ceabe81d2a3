"""Model card of a bundle in Markdown: what it is, how well it performs and on what, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whale_ray.retrieval.search.retrieval_config import chosen_setting


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the model card of a manifest in Markdown."""
    scores = manifest["scores"]
    rows = [
        f"| {name} | {_figure(scores, name)} |"
        for name in ("recall@1", "recall@4", "recall@16", "map@5", "auroc", "baks", "baus")
    ]
    retrieval = ", ".join(f"{key} {value}" for key, value in sorted(manifest["retrieval"].items()) if value is not None)
    retrained = bool(manifest.get("retrained_on_all"))
    return "\n".join(
        [
            f"# {manifest['id']}",
            "",
            f"Recognises {manifest['individuals']} individuals from {manifest['images']} photographs.",
            "",
            f"- Encoder: {_encoder(manifest)}, {manifest['embedding_size']} dimensions",
            f"- Retrieval: {retrieval}",
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
            "A low score on animals of another species, catalogue or camera is to be expected: measure it there first.",
            "",
        ]
    )


def _encoder(manifest: Mapping[str, Any]) -> str:
    members = manifest["encoder"].get("members", [manifest["encoder"]])
    return " and ".join(str(member["name"]) for member in members)


def _runtime_line(manifest: Mapping[str, Any]) -> list[str]:
    named = manifest.get("runtime")
    return [f"- Runs on: {named['name']}: {named['reason']}"] if named else []


def _what_is_new(manifest: Mapping[str, Any]) -> str:
    threshold = manifest["threshold"]
    if threshold is None:
        return "no threshold: nothing in the data was unknown"
    if chosen_setting(manifest["retrieval"]).search_mode.plain:
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
