"""Hints about labels that mark unknown animals although `data.unknown_label` is another."""

from __future__ import annotations

import pytest

from whale_ray.data.hints.unknown_labels import explain_unknown_labels

NAMES = {"w_1": 3, "Neuschwanstein": 2, "Nova": 4, "Newton": 2, "Unknowable": 1, "x": 5}


@pytest.mark.parametrize(
    "label",
    [
        *("New_Whale", "new whale", "newwhale", "new-whales", "NEW_WHALE ", "unidentified", "Unknown", "unknown_whale"),
        *(
            "Unbekannt",
            "inconnu",
            "desconocido",
            "неизвестно",
            "n/a",
            "NaN",
            "?",
            "--",
            "new_individual",
            "Néw whale",
            "-1",
        ),
    ],
)
def test_a_label_for_unknown_animals_is_named_with_its_count_and_the_setting(label: str) -> None:
    hint = explain_unknown_labels(NAMES | {label: 23}, "new_whale")
    assert f"data.unknown_label is 'new_whale', which occurs nowhere, but {label!r} in 23 rows" in hint
    assert "add --set" in hint


@pytest.mark.parametrize(
    ("label", "setting"),
    [
        ("New_Whale", "--set data.unknown_label=New_Whale"),
        ("new whale", "--set 'data.unknown_label=new whale'"),
        ("NaN", """--set 'data.unknown_label="NaN"'"""),
        ("?", """--set 'data.unknown_label="?"'"""),
    ],
)
def test_the_setting_is_written_as_a_shell_and_yaml_take_it(label: str, setting: str) -> None:
    assert explain_unknown_labels(NAMES | {label: 1}, "new_whale").endswith(f"add {setting}")


def test_several_labels_are_listed_the_most_frequent_first() -> None:
    hint = explain_unknown_labels(NAMES | {"unknown": 2, "New_Whale": 7}, "new_whale")
    assert "'New_Whale' in 7 rows, 'unknown' in 2 rows would count" in hint
    assert hint.endswith("add --set data.unknown_label=New_Whale and write it in the rows of the others")


def test_a_second_spelling_beside_the_label_is_named() -> None:
    hint = explain_unknown_labels(NAMES | {"new_whale": 20, "New_Whale": 3}, "new_whale")
    assert "'New_Whale' in 3 rows is spelled like it" in hint
    assert "write 'new_whale' in these rows too" in hint


@pytest.mark.parametrize("counts", [NAMES, NAMES | {"new_whale": 2}, NAMES | {"new_whale": 2, "unknown": 4}, {}])
def test_ordinary_names_give_no_hint(counts: dict[str, int]) -> None:
    assert explain_unknown_labels(counts, "new_whale") == ""


def test_another_unknown_label_is_compared_in_the_same_way() -> None:
    assert "'UNBEKANNT' in 4 rows" in explain_unknown_labels({"UNBEKANNT": 4}, "unbekannt")
