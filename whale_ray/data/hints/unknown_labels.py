"""Labels that probably mark unknown animals although `data.unknown_label` is another."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping

# Words for an unknown animal as catalogs write them, in the form of `_letters`.
_TYPICAL = {
    *("unknown", "unidentified", "unid", "unk", "ukn", "notidentified", "noid", "nomatch", "unmatched", "unassigned"),
    *("undetermined", "undefined", "unnamed", "noname", "unlabelled", "unlabeled", "tbd", "na", "nan", "none", "null"),
    *("unbekannt", "unbestimmt", "neu", "inconnu", "inconnue", "nonidentifie", "desconocido", "desconocida"),
    *("noidentificado", "noidentificada", "desconhecido", "desconhecida", "sconosciuto", "sconosciuta", "onbekend"),
    *("okand", "ukjent", "ukendt", "tuntematon", "nieznany", "neznamy", "bilinmeyen", "neopredelen"),
    *("неизвестно", "неизвестен", "неизвестныи", "неизвестная", "неопределен", "новыи"),
    *("不明", "未知", "未識別", "미상", "غيرمعروف"),
}
_NEW = re.compile(
    r"^(new|newid|neuer?|nuevo|nueva|nouveau|nouvelle)(whale|animal|individual|fluke|fin|seal|dolphin|id)?s?$"
)
_UNKNOWN = re.compile(r"^(unknown|unidentified|unid)(whale|animal|individual|fluke|fin|seal|turtle|dolphin|id)s?$")
_MOST_SHOWN = 3


def explain_unknown_labels(counts: Mapping[str, int], unknown_label: str) -> str:
    """Return a hint about labels that look like that of unknown animals but are not; "" if there are none.

    A label that differs from `unknown_label` only in case, blanks, signs or accents always counts. A typical word for
    unknown animals, such as `unidentified`, counts if `unknown_label` occurs nowhere.

    Args:
        counts: Number of rows of each label.
        unknown_label: The setting `data.unknown_label`.
    """
    occurs = unknown_label in counts
    found = {
        label: count
        for label, count in counts.items()
        if label != unknown_label and (_is_spelled_alike(label, unknown_label) or (not occurs and _is_typical(label)))
    }
    if not found:
        return ""
    ranked = sorted(found, key=lambda label: -found[label])
    shown = ", ".join(f"{label!r} in {found[label]} rows" for label in ranked[:_MOST_SHOWN])
    if occurs:
        return (
            f"data.unknown_label is {unknown_label!r}, but {shown} is spelled like it and counts as one individual. If "
            f"it marks unknown animals, write {unknown_label!r} in these rows too"
        )
    setting = shlex.quote(f"data.unknown_label={_yaml_text(ranked[0])}")
    others = " and write it in the rows of the others" if len(ranked) > 1 else ""
    return (
        f"data.unknown_label is {unknown_label!r}, which occurs nowhere, but {shown} would count as an individual. If "
        f"it marks unknown animals, add --set {setting}{others}"
    )


def _is_spelled_alike(label: str, unknown_label: str) -> bool:
    letters = _letters(unknown_label)
    return letters != "" and _letters(label).rstrip("s") == letters.rstrip("s")


def _is_typical(label: str) -> bool:
    letters = _letters(label)
    is_sign = label.strip() == "-1" or (not letters and set(label.strip()) <= set("?-_*."))
    return is_sign or letters in _TYPICAL or _NEW.match(letters) is not None or _UNKNOWN.match(letters) is not None


def _letters(label: str) -> str:
    """Return the lower-case letters and digits of a label, without accents."""
    decomposed = unicodedata.normalize("NFKD", label).casefold()
    return "".join(letter for letter in decomposed if letter.isalnum())


def _yaml_text(label: str) -> str:
    """Return the label as `--set` takes it: quoted where YAML would read another type."""
    is_plain = re.fullmatch(r"[A-Za-z][\w ]*", label) and label.casefold() not in {
        "null",
        "none",
        "nan",
        "na",
        "no",
        "n",
    }
    return label if is_plain else '"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"'
