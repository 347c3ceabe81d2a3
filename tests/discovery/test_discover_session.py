"""A session: answers change the clusters and the tables; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from threshold_grouping import COUNT, little_session

from whale_ray.discovery.session import ANSWERS_EACH, DiscoverySession, RowAnswers


def read(session: DiscoverySession, name: str) -> list[list[str]]:
    table = pd.read_csv(session.folder.path / f"{name}.csv", dtype=str, keep_default_na=False)
    return [row.tolist() for row in table.to_numpy()]


def test_the_tables_are_there_before_the_first_answer(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        assert [row[1] for row in read(session, "table")] == ["Ada", *["new_whale"] * (COUNT - 1)]
        assert len(read(session, "questions")) == 10
        assert read(session, "contradictions") == []


def test_every_few_answers_the_photographs_are_clustered_again(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        for second in range(1, ANSWERS_EACH + 1):
            assert session.state.number == 1
            session.answer(0, second, "same" if second < 3 else "different", person="Ana")
        session.wait()
        assert session.state.number == 2
        assert [row[1] for row in read(session, "table")] == ["Ada", "Ada", "Ada", "new_whale", "new_whale"]
        assert [row[2] for row in read(session, "clusters")] == ["Ada", "Ada", "Ada", "", ""]


def test_an_answered_pair_is_not_open_before_the_next_clustering(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        session.answer(1, 0, "cannot tell", person="")
        assert (0, 1) not in [(one.first, one.second) for one in session.open_questions]


def test_an_undo_is_clustered_again(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        session.add_answers([(session.images[1], session.images[2], "same", "Ana")])
        assert read(session, "table")[1][1] == "discovered_0001"
        session.undo(1, person="Ben")
        session.wait()
        assert read(session, "table")[1][1] == "new_whale"


def test_a_contradiction_is_listed(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        first, second = session.images[1:3]
        session.add_answers([(first, second, "same", "Ana")])
        session.add_answers([(second, first, "different", "Ben")])
        assert read(session, "contradictions") == [[second, first, f"{second} = {first}"]]


def test_answers_that_are_known_are_not_saved_again(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        rows = [(session.images[1], session.images[2], "same", "Ana")]
        assert (session.add_answers(rows), session.add_answers(rows)) == (1, 0)


def test_answers_about_photographs_that_are_gone_are_kept_without_an_effect(tmp_path: Path) -> None:
    with little_session(tmp_path) as session:
        session.log.add("gone.jpg", session.images[0], "same", person="Ana")
        assert session.row_answers() == RowAnswers((), (), ())
        assert "gone.jpg" in session.folder.answers.read_text()


@pytest.mark.parametrize("pair", [(0, COUNT), (-1, 0), (2, 2)])
def test_a_pair_that_does_not_exist_is_refused(tmp_path: Path, pair: tuple[int, int]) -> None:
    with little_session(tmp_path) as session, pytest.raises(ValueError, match="a pair has two rows"):
        session.answer(*pair, "same", person="")


def test_a_failed_clustering_is_shown_and_the_answer_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(answers: RowAnswers) -> None:
        raise RuntimeError("no memory")

    with little_session(tmp_path) as session:
        monkeypatch.setattr(session, "_group", fail)
        session.undo(session.answer(0, 1, "same", person="").number, person="")
        session.wait()
        assert session.failure == "no memory"
        assert session.folder.answers.read_text().count("\n") == 2
    assert "cannot be clustered" in caplog.text


@pytest.mark.parametrize(
    ("singles", "ids"),
    [
        ("unknown", ["Ada", "new_whale", "new_whale"]),
        ("named", ["Ada", "single_1<b>.png", "single_2<b>.png"]),
        ("omitted", ["Ada"]),
    ],
)
def test_photographs_alone_are_treated_as_chosen(tmp_path: Path, singles: str, ids: list[str]) -> None:
    with little_session(tmp_path) as session:
        session._singles = singles
        session.cluster()
        assert [row[1] for row in read(session, "table")][:3] == ids
