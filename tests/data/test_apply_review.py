"""`apply_review`: confirmed rows become a new table; invalid rows are refused and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.catalog import read_catalog
from whale_ray.data.review.apply_review import COLUMNS, apply_review
from whale_ray.errors import DataError

TABLE = """Image,Place,Id
a1.png,bay,ann
a2.png,bay,ann
b1.png,"cape, east",bob
b2.png,,bob
c1.png,bay,cat
c2.png,bay,cat
n1.png,bay,new_whale
n2.png,bay,new_whale
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train.csv").write_text(TABLE)
    Image.new("RGB", (8, 8)).save(folder / "train" / "met_today.png")
    return folder


def review(root: Path, *rows: dict[str, str]) -> Path:
    path = root.parent / "review.csv"
    pd.DataFrame([dict.fromkeys(COLUMNS, "") | each for each in rows]).to_csv(path, index=False)
    return path


def row(kind: str, image: str = "", individual: str = "", confirm: str = "yes", **more: str) -> dict[str, str]:
    return {"kind": kind, "image": image, "individual": individual, "confirm": confirm, **more}


def pair(kind: str, one: str, other: str, confirm: str = "yes", suggested: str = "") -> dict[str, str]:
    """A row about two photographs ("image individual") or, without a photograph, two individuals."""
    (image, individual), (other_image, other_individual) = (f" {each}".split(" ")[-2:] for each in (one, other))
    more = {"other_image": other_image, "other_individual": other_individual, "suggested": suggested}
    return row(kind, image, individual, confirm, **more)


def wrong(image: str, individual: str, suggested: str, confirm: str = "yes") -> dict[str, str]:
    return row("mislabelled", image, individual, confirm, suggested=suggested)


def applied(root: Path, *rows: dict[str, str]) -> pd.DataFrame:
    return pd.read_csv(apply_review(review(root, *rows), root=root).path, dtype=str, keep_default_na=False)


def labels(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["Image"], table["Id"], strict=True))


# What is done


def test_a_confirmed_label_is_the_only_thing_that_changes(root: Path) -> None:
    path = apply_review(review(root, wrong("b2.png", "bob", "ann")), root=root).path
    assert path == root / "train.reviewed.csv"
    assert path.read_text() == TABLE.replace("b2.png,,bob", "b2.png,,ann")
    assert (root / "train.csv").read_text() == TABLE


def test_a_name_in_confirm_overrides_the_suggestion(root: Path) -> None:
    assert labels(applied(root, wrong("b2.png", "bob", "ann", "cat")))["b2.png"] == "cat"
    assert labels(applied(root, wrong("b2.png", "bob", "ann", "new_whale")))["b2.png"] == "new_whale"


def test_rows_that_say_no_or_nothing_change_nothing(root: Path) -> None:
    rows = [wrong("b2.png", "bob", "ann", "no"), wrong("c1.png", "cat", "ann", ""), wrong("a1.png", "ann", "cat")]
    result = apply_review(review(root, *rows), root=root)
    assert result.path.read_text() == TABLE.replace("a1.png,bay,ann", "a1.png,bay,cat")
    assert result.lines[-1] == "1 rows are confirmed; 1 are undecided and 1 say no"


def test_chains_of_merged_individuals_get_one_name(root: Path) -> None:
    rows = [
        pair("same_individual", "ann", "bob", suggested="bob"),
        pair("same_individual", "bob", "cat", suggested="cat"),
    ]
    table = labels(applied(root, *rows, wrong("n1.png", "new_whale", "ann")))
    assert set(table.values()) == {"cat", "new_whale"}
    assert table["n1.png"] == "cat"


def test_a_merge_may_keep_either_name(root: Path) -> None:
    table = labels(applied(root, pair("same_individual", "ann", "bob", confirm="ann", suggested="bob")))
    assert table["b1.png"] == table["a1.png"] == "ann"


def test_a_copy_is_left_out_and_its_original_stays(root: Path) -> None:
    table = applied(root, pair("near_identical", "a2.png ann", "a1.png ann"))
    assert "a2.png" not in labels(table)
    assert len(table) == 7


def test_of_three_copies_one_stays(root: Path) -> None:
    table = root / "train.csv"
    table.write_text(TABLE.replace("c1.png,bay,cat", "c1.png,bay,ann").replace("c2.png,bay,cat", "c2.png,bay,ann"))
    pairs = (("a2.png ann", "a1.png ann"), ("c1.png ann", "a1.png ann"), ("c1.png ann", "a2.png ann"))
    left = applied(root, *(pair("near_identical", *each) for each in pairs))
    assert set(labels(left)) == {"a1.png", "c2.png", "b1.png", "b2.png", "n1.png", "n2.png"}


def test_the_name_of_a_copy_goes_to_the_picture_that_stays(root: Path) -> None:
    rows = (
        pair("near_identical", "a2.png ann", "b1.png bob", "ann"),
        pair("near_identical", "b1.png bob", "b2.png bob"),
    )
    left = labels(applied(root, *rows))
    assert "a2.png" not in left
    assert "b1.png" not in left
    assert left["b2.png"] == "ann"


def test_a_picture_under_two_names_gets_the_one_that_is_written(root: Path) -> None:
    table = labels(applied(root, pair("near_identical", "a2.png ann", "b1.png bob", confirm="ann")))
    assert "a2.png" not in table
    assert table["b1.png"] == "ann"


def test_two_photographs_of_an_unknown_animal_become_an_individual(root: Path) -> None:
    rows = pair("new_individual", "n1.png new_whale", "n2.png new_whale", suggested="new_0001")
    table = labels(applied(root, rows))
    assert table["n1.png"] == table["n2.png"] == "new_0001"


def test_a_photograph_from_the_service_is_added_under_its_merged_name(root: Path) -> None:
    merge = pair("same_individual", "ann", "bob", suggested="bob")
    table = applied(root, row("confirmed", "met_today.png", "ann"), merge)
    assert table.iloc[-1].to_dict() == {"Image": "met_today.png", "Place": "", "Id": "bob"}


def test_view_and_species_of_an_added_photograph_are_written(root: Path) -> None:
    seen = row("confirmed", "met_today.png", "ann", view="left", species="'=blue")
    found = apply_review(review(root, seen), root=root)
    table = pd.read_csv(found.path, dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["Image", "Place", "Id", "view", "species"]
    assert table.iloc[-1].tolist() == ["met_today.png", "", "ann", "left", "=blue"]
    assert set(table["view"].iloc[:-1]) == {""}
    assert found.settings == {"view_column": "view", "species_column": "species"}
    rows = read_catalog(root, table=found.table, **found.settings).table  # type: ignore[arg-type]
    assert rows.iloc[-1][["view", "species"]].tolist() == ["left", "=blue"]


def test_view_and_species_go_into_the_columns_of_the_data_set(root: Path) -> None:
    text = TABLE.replace("Image,Place,Id", "Image,Side,Id")
    (root / "train.csv").write_text(text)
    rows = review(root, row("confirmed", "met_today.png", "ann", view="left"))
    found = apply_review(rows, root=root, view_column="Side")
    table = pd.read_csv(found.path, dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["Image", "Side", "Id"]
    assert table.iloc[-1].tolist() == ["met_today.png", "left", "ann"]
    assert found.settings == {}


def test_without_a_known_view_the_table_keeps_its_columns(root: Path) -> None:
    found = apply_review(review(root, row("confirmed", "met_today.png", "ann", view="", species="")), root=root)
    assert pd.read_csv(found.path).columns.tolist() == ["Image", "Place", "Id"]
    assert found.settings == {}


def test_a_second_review_makes_a_second_table(root: Path) -> None:
    file = review(root, wrong("b2.png", "bob", "ann"))
    names = [apply_review(file, root=root).path.name for _ in range(2)]
    again = review(root, wrong("c2.png", "cat", "ann"))
    last = apply_review(again, root=root, table="train.reviewed.csv")
    assert [*names, last.table] == ["train.reviewed.csv", "train.reviewed.2.csv", "train.reviewed.3.csv"]
    assert labels(pd.read_csv(last.path))["b2.png"] == "ann"


def test_a_review_that_a_spreadsheet_saved_with_semicolons_is_read(root: Path) -> None:
    path = root.parent / "review.csv"
    path.write_text("\ufeffkind;image;individual;suggested;confirm\nmislabelled;b2.png;bob;ann;Yes\n")
    assert labels(pd.read_csv(apply_review(path, root=root).path))["b2.png"] == "ann"


@pytest.mark.parametrize("change", [("data", "."), ("data", "../data"), (".", "data"), ("data/train", "..")])
@pytest.mark.parametrize("table", ["train.csv", "tables/all.csv", "ABSOLUTE"])
def test_a_root_may_be_relative_and_the_table_anywhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], table: str
) -> None:
    file = review(root, wrong("b2.png", "bob", "ann"))
    path = root / (table if table != "ABSOLUTE" else "train.csv")
    path.parent.mkdir(exist_ok=True)
    path.write_text(TABLE)
    monkeypatch.chdir(root.parent / change[0])
    result = apply_review(file, root=Path(change[1]), table=str(path) if table == "ABSOLUTE" else table)
    assert path.with_stem(f"{path.stem}.reviewed").read_text() == TABLE.replace("b2.png,,bob", "b2.png,,ann")
    assert labels(pd.read_csv(Path(change[1]) / result.table))["b2.png"] == "ann"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_new_table_has_the_separator_of_the_old_one(root: Path, separator: str, encoding: str) -> None:
    old = pd.read_csv(root / "train.csv", dtype=str, keep_default_na=False).replace("bay", "Größe")
    old.insert(3, "Place ", "doubled", allow_duplicates=True)
    old.to_csv(root / "train.csv", sep=separator, index=False, encoding=encoding)
    path = apply_review(review(root, wrong("b2.png", "bob", "ann")), root=root).path
    new = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    assert path.read_bytes().startswith(
        b"\xef\xbb\xbf"
    )  # a spreadsheet takes UTF-8 without a mark for another encoding
    assert labels(new)["b2.png"] == "ann"
    assert new.iloc[:, 1].tolist() == old["Place"].tolist()


def test_rows_whose_empty_last_cells_excel_left_out_are_undecided(root: Path) -> None:
    path = root.parent / "review.csv"
    head = "kind,image,individual,suggested,parts,confirm\n"
    path.write_text(head + "mislabelled,a1.png,ann,bob\nmislabelled,b2.png,bob,ann,,yes\n")
    result = apply_review(path, root=root)
    assert result.lines[-1] == "1 rows are confirmed; 1 are undecided and 0 say no"


def test_a_fault_names_the_line_of_the_file_after_blank_lines_and_line_breaks_in_cells(root: Path) -> None:
    path = root.parent / "review.csv"
    head = "kind,image,individual,suggested,confirm\n"
    path.write_text(head + '\nmislabelled,a1.png,ann,"two\nlines",no\n\nmislabelled,b9.png,bob,ann,yes\n')
    with pytest.raises(DataError, match=r"\n  line 6: a photograph must be in the table"):
        apply_review(path, root=root)


def test_a_name_that_looks_like_a_formula_is_restored(root: Path) -> None:
    (root / "train.csv").write_text(TABLE.replace("ann", "=ann()"))
    assert labels(applied(root, wrong("b2.png", "bob", "'=ann()")))["b2.png"] == "=ann()"


# What is refused


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (
            [wrong("b2.png", "bob", "ann", "yess")],
            r"line 2: confirm is yes, no, empty or .* got 'yess'. Did you mean `yes`",
        ),
        ([wrong("b9.png", "bob", "ann")], "line 2: a photograph must be in the table, but 'b9.png' is not"),
        ([wrong("b2.png", "cat", "ann")], r"line 2: .* there b2.png is of bob, not of 'cat'. Sweep again"),
        (
            [wrong("b2.png", "bob", "ann"), wrong("b2.png", "bob", "cat")],
            "line 3: one thing can become of b2.png, but line 2 wants ann and this one cat",
        ),
        (
            [pair("same_individual", "ann", "bob", "bob"), pair("same_individual", "ann", "cat", "cat")],
            "line 3: one thing can become of ann, but line 2 wants bob and this one cat",
        ),
        (
            [pair("same_individual", "ann", "bob", "bob"), pair("same_individual", "bob", "ann", "ann")],
            "line 3: a chain of names must end, but that of bob comes back to it",
        ),
        (
            [pair("near_identical", "a1.png ann", "a2.png ann"), pair("near_identical", "a2.png ann", "a1.png ann")],
            "line 2: a chain of copies must end",
        ),
        (
            [pair("near_identical", "a1.png ann", "b1.png bob")],
            "under ann and bob. Write the right name instead of yes",
        ),
        (
            [pair("same_individual", "ann", "new_whale", "ann")],
            "individuals are one under a name, but new_whale is none",
        ),
        ([pair("same_individual", "ann", "dan", "ann")], "an individual must be in the table, but 'dan' is not"),
        ([row("confirmed", "met_yesterday.png", "ann")], r"must lie in .*train, but 'met_yesterday.png' does not"),
        ([row("confirmed", "../train.csv", "ann")], r"must lie in .*train, but '../train.csv' does not"),
        ([row("confirmed", "a1.png", "ann")], r"new to the table, but a1.png is there, of ann"),
        (
            [pair("new_individual", "n1.png new_whale", "n2.png new_whale", suggested="bob")],
            "a new individual needs a name of its own, but bob is taken",
        ),
        (
            [
                row("confirmed", "met_today.png", "ann", view="left"),
                row("confirmed", "met_today.png", "ann", view="up"),
            ],
            "line 3: an animal has one view and one species, but an earlier line differs for met_today.png. Empty one",
        ),
        ([row("moved", "a1.png", "ann")], r"a kind is one of near_identical, .*, but got 'moved'"),
    ],
)
def test_an_invalid_row_is_refused_with_its_line(root: Path, rows: list[dict[str, str]], fault: str) -> None:
    with pytest.raises(DataError, match=f"nothing was written:\n(.*\n)*.*{fault}"):
        apply_review(review(root, *rows), root=root)
    assert [path.name for path in root.iterdir() if path.is_file()] == ["train.csv"]


def test_all_faults_are_reported_at_once(root: Path) -> None:
    rows = [wrong("b9.png", "bob", "ann"), wrong("b2.png", "bob", "ann"), wrong("c1.png", "cat", "ann", "maybe")]
    with pytest.raises(DataError, match=r"line 2: .*\n  line 4: "):
        apply_review(review(root, *rows), root=root)


def test_a_review_without_a_confirmed_row_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"must be confirmed, but 1 are undecided and 0 say no. Write yes, no or"):
        apply_review(review(root, wrong("b2.png", "bob", "ann", "")), root=root)


def test_another_csv_is_no_review(root: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"must have the columns kind, image, individual, confirm, but has Image, Place, Id .*Take the review",
    ):
        apply_review(root / "train.csv", root=root)


def test_a_table_without_an_individual_of_two_photographs_is_not_written(root: Path) -> None:
    (root / "train.csv").write_text("Image,Id\na1.png,ann\na2.png,ann\nb1.png,bob\n")
    with pytest.raises(DataError, match="at least one individual must have two photographs"):
        apply_review(review(root, pair("near_identical", "a2.png ann", "a1.png ann")), root=root)
    assert [path.name for path in root.iterdir() if path.is_file()] == ["train.csv"]


def test_of_two_animals_in_a_photograph_the_named_one_is_corrected(root: Path) -> None:
    table = root / "train.csv"
    boxed = pd.read_csv(table, dtype=str).assign(x0="", y0="", x1="", y1="")
    pair = pd.DataFrame([["pair.png", "ann", "0", "0", "9", "9"], ["pair.png", "ann", "9", "0", "20", "9"]])
    pair.columns = pd.Index(["Image", "Id", "x0", "y0", "x1", "y1"])
    pd.concat([boxed, pair]).fillna("").to_csv(table, index=False)
    new = applied(root, wrong("pair.png#9,0,20,9", "ann", "bob"))
    assert new.loc[new["Image"] == "pair.png", "Id"].tolist() == ["ann", "bob"]


def test_a_data_set_without_a_table_is_not_corrected(tmp_path: Path) -> None:
    for name in ("Ada/a.jpg", "Ada/b.jpg", "Bo/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    review = tmp_path / "review.csv"
    review.write_text("kind,image,individual,confirm\nmislabelled,Ada/a.jpg,Ada,Bo\n")
    with pytest.raises(DataError, match="of the format folders"):
        apply_review(review, root=tmp_path)
