"""Enrolment store on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import dataclasses
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sql

from whale_ray.data.formats.animal_rows import animal_name
from whale_ray.data.image_io import Box
from whale_ray.errors import EnrolledElsewhereError, NoSuchVersionError, StoreError
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.retrieval.local.local_features import VERSION, LocalFeatures, descriptor_size
from whale_ray.serving.gallery import database
from whale_ray.serving.gallery.enrolled_pictures import (
    EnrolledPicture,
    pack_keypoints,
    picture_digest,
    picture_name,
    round_box,
)
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.review.review_backlog import ReviewBacklog
from whale_ray.serving.gallery.review.review_queue import LatestAnswer, ReviewItem, ReviewQueue
from whale_ray.serving.gallery.stored_keypoints import StoredKeypoints
from whale_ray.serving.gallery.tables import KEYPOINTS

pytestmark = pytest.mark.integration

TOP = Path(__file__).parents[2]


def picture(word: str, box: Box | None = None) -> EnrolledPicture:
    data = f"the picture {word} ".encode() * 2000
    name = f"enrolled-{word}.jpg" if box is None else animal_name(f"enrolled-{word}.jpg", box)
    vector = np.arange(4, dtype=np.float16)
    return EnrolledPicture(picture_digest(data, box), name, data, b"small " + word.encode(), vector, box)


Open = Callable[[], EnrolmentStore]


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Opens the database once more; all are closed at the end."""
    stores: list[EnrolmentStore] = []

    def another() -> EnrolmentStore:
        stores.append(EnrolmentStore(url))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> EnrolmentStore:
    return opened()


def gallery(store: EnrolmentStore) -> list[tuple[str, str]]:
    return sorted((entry.individual, entry.image) for entry in store.state().entries)


def test_an_enrolled_image_and_its_vector_are_visible_to_another_connection(
    store: EnrolmentStore, opened: Open
) -> None:
    assert store.enrol("w_1", [picture("a"), picture("b")], bundle="b1") == [True, True]
    other = opened()
    assert gallery(other) == [("w_1", "enrolled-a.jpg"), ("w_1", "enrolled-b.jpg")]
    assert (other.version(), other.state().version) == (1, 1)
    digest = picture("a").digest
    assert other.vectors("b1", [digest])[digest].tolist() == [0, 1, 2, 3]
    assert other.vectors("another bundle", [digest]) == {}
    assert other.picture("enrolled-a.jpg") == picture("a").data
    assert other.thumbnail("enrolled-a.jpg") == b"small a"


def test_enrolling_the_same_image_again_changes_nothing(store: EnrolmentStore) -> None:
    assert store.enrol("w_1", [picture("a"), picture("a")], bundle="b1") == [True, True]
    assert store.enrol("w_1", [picture("a")], bundle="b1") == [False]
    assert gallery(store) == [("w_1", "enrolled-a.jpg")]
    assert store.version() == 1
    assert [(version.kind, version.pictures) for version in store.versions()] == [("enrol", 1)]


def test_a_picture_of_another_individual_is_refused_and_nothing_of_the_call_is_kept(store: EnrolmentStore) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    with pytest.raises(EnrolledElsewhereError, match=r"picture 2 is enrolled under 'w_1'.*Delete it there"):
        store.enrol("w_2", [picture("b"), picture("a")], bundle="b1")
    assert gallery(store) == [("w_1", "enrolled-a.jpg")]
    assert store.version() == 1


def test_older_and_newer_versions_are_restored(store: EnrolmentStore) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    store.enrol("w_2", [picture("b")], bundle="b1")
    assert store.restore(1) == 3
    assert gallery(store) == [("w_1", "enrolled-a.jpg")]
    assert store.picture("enrolled-b.jpg") is None
    store.enrol("w_3", [picture("b")], bundle="b1")  # no individual has it now
    assert store.restore(2) == 5
    assert gallery(store) == [("w_1", "enrolled-a.jpg"), ("w_2", "enrolled-b.jpg")]
    assert store.restore(0) == 6
    assert gallery(store) == []
    kinds = [(version.number, version.kind, version.pictures) for version in store.versions()]
    assert kinds == [
        (6, "restore", 2), (5, "restore", 2), (4, "enrol", 1), (3, "restore", 1), (2, "enrol", 1), (1, "enrol", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [-1, 2, 10**6])
def test_an_unknown_version_is_refused(store: EnrolmentStore, number: int) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    with pytest.raises(NoSuchVersionError, match=rf"versions 0 to 1, but got {number}"):
        store.restore(number)


def test_a_forgotten_image_is_in_no_version_and_cannot_be_restored(store: EnrolmentStore) -> None:
    store.enrol("w_1", [picture("a"), picture("b")], bundle="b1")
    store.restore(0)
    assert store.forget_image("w_1", "enrolled-a.jpg", hide=False) == 1
    store.restore(1)
    assert gallery(store) == [("w_1", "enrolled-b.jpg")]
    assert store.forget_individual("w_1", hide=False) == 1
    store.restore(1)
    assert gallery(store) == []
    assert store.forget_individual("w_1", hide=False) == 0
    assert store.vectors("b1", [picture("a").digest, picture("b").digest]) == {}


def test_forgetting_an_individual_keeps_an_image_that_now_belongs_to_another(store: EnrolmentStore) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    store.restore(0)
    store.enrol("w_2", [picture("a")], bundle="b1")
    store.forget_individual("w_1", hide=False)
    assert gallery(store) == [("w_2", "enrolled-a.jpg")]
    assert store.picture("enrolled-a.jpg") == picture("a").data


def test_a_forgotten_image_is_hidden_in_bundles_trained_with_it(store: EnrolmentStore) -> None:
    for name, individual in (("a", "w_1"), ("b", "w_1"), ("c", "w_2")):
        store.enrol(individual, [picture(name)], bundle="b1")
    assert store.forget_image("w_1", picture("a").name, hide=False) == 1
    assert store.forget_individual("w_2", hide=False) == 1
    assert store.state().hidden_images == {picture("a").name, picture("c").name}
    store.enrol("w_1", [picture("a")], bundle="b2")
    assert [entry.image for entry in store.state().entries] == [picture("b").name, picture("a").name]


def test_hidden_bundle_images_stay_hidden_after_a_restore(store: EnrolmentStore) -> None:
    assert store.forget_image("w_1", "1.jpg", hide=True) == 1
    assert store.forget_image("w_1", "1.jpg", hide=True) == 0
    assert store.forget_individual("w_2", hide=True) == 1
    store.restore(0)
    state = store.state()
    assert (state.hidden_images, state.hidden_individuals) == (frozenset({"1.jpg"}), frozenset({"w_2"}))


def test_forgotten_bytes_are_in_no_file_of_sqlite(tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    store.enrol("w_1", [picture("a"), picture("b")], bundle="b1")

    def found(word: str) -> bool:
        return any(f"picture {word} ".encode() in path.read_bytes() for path in tmp_path.iterdir())

    assert found("a")
    store.forget_image("w_1", "enrolled-a.jpg", hide=False)
    assert not found("a")
    assert found("b")


def test_sqlite_flushes_each_commit_and_writes_ahead(tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    for _ in range(2):  # the second time on a connection that was used before
        with store.engine.connect() as connection:
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
            ]
        assert found == ["wal", 2, 1, 1]


def test_two_bundles_store_separate_vectors_and_a_forgotten_image_accepts_none(store: EnrolmentStore) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    digest, gone = picture("a").digest, picture("gone").digest
    for _ in range(2):
        store.add_vectors("b2", {digest: np.ones(2, dtype=np.float16), gone: np.ones(2, dtype=np.float16)})
    assert store.vectors("b2", [digest, gone])[digest].tolist() == [1, 1]
    assert store.vectors("b1", [digest, gone])[digest].tolist() == [0, 1, 2, 3]
    assert store.vectors("b2", [gone]) == {}


def features(count: int, kind: str = "sift") -> LocalFeatures:
    numbers = np.random.default_rng(count)
    points = numbers.random((count, 2), np.float32).astype(np.float16).astype(np.float32)
    return LocalFeatures(points, numbers.integers(0, 2, (count, descriptor_size(kind)), np.uint8))


def keypoints_of(store: EnrolmentStore, kind: str = "sift") -> dict[str, int]:
    found = StoredKeypoints(store.engine, kind).read([picture("a").digest, picture("b").digest])
    return {digest: len(one) for digest, one in found.items()}


def test_keypoints_are_stored_by_kind_and_erased_with_their_picture(store: EnrolmentStore, opened: Open) -> None:
    packed = pack_keypoints(features(5), "sift")
    enrolled = dataclasses.replace(picture("a"), keypoints=packed)
    digest, gone = enrolled.digest, picture("gone").digest
    store.enrol("w_1", [enrolled, picture("b")], bundle="b1")
    other = opened()
    assert keypoints_of(other) == {digest: 5}
    assert keypoints_of(other, "orb") == {}
    for _ in range(2):
        StoredKeypoints(other.engine, "orb").add({digest: features(7, "orb"), gone: features(3, "orb")})
    (found,) = StoredKeypoints(store.engine, "orb").read([digest, gone]).values()
    np.testing.assert_array_equal(found.points, features(7, "orb").points)
    np.testing.assert_array_equal(found.descriptors, features(7, "orb").descriptors)
    store.forget_image("w_1", enrolled.name, hide=False)
    assert keypoints_of(store) == keypoints_of(store, "orb") == {}
    with store.engine.connect() as connection:
        assert connection.execute(sql.select(sql.func.count()).select_from(KEYPOINTS)).scalar_one() == 0


@pytest.mark.parametrize("fault", [{"version": VERSION - 1}, {"features": b"damaged"}], ids=["older", "damaged"])
def test_keypoints_of_another_version_or_damaged_ones_are_replaced(
    store: EnrolmentStore, fault: dict[str, object]
) -> None:
    enrolled = dataclasses.replace(picture("a"), keypoints=pack_keypoints(features(5), "sift"))
    store.enrol("w_1", [enrolled], bundle="b1")
    with store.engine.begin() as connection:
        connection.execute(KEYPOINTS.update().values(fault))
    assert keypoints_of(store) == {}
    StoredKeypoints(store.engine, "sift").add({enrolled.digest: features(6)})
    assert keypoints_of(store) == {enrolled.digest: 6}


def test_a_store_without_the_table_of_keypoints_gets_it(store: EnrolmentStore, opened: Open) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    with store.engine.begin() as connection:
        KEYPOINTS.drop(connection)
    assert keypoints_of(opened()) == {}
    assert gallery(opened()) == [("w_1", "enrolled-a.jpg")]


def test_many_writers_at_once_lose_nothing(opened: Open) -> None:
    stores = [opened() for _ in range(4)]

    def write(number: int) -> None:
        for turn in range(5):
            stores[number].enrol(f"w_{number}", [picture(f"{number}-{turn}"), picture(f"all-{number}")], bundle="b1")

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gallery(stores[0])) == 4 * 6
    assert stores[1].version() == 20
    assert sorted(version.number for version in stores[2].versions()) == list(range(1, 21))


def test_acknowledged_writes_survive_a_kill_and_others_are_atomic(url: str, opened: Open) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_gallery_store import *\n"
        "store = EnrolmentStore(sys.argv[1])\n"
        "for turn in range(10**6):\n"
        "    store.enrol(f'w_{turn}', [picture(f'{turn}-{side}') for side in 'lr'], bundle='b1')\n"
        "    print(turn, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, url, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True, cwd=TOP
    )
    assert writer.stdout
    with writer.stdout:
        lines = [writer.stdout.readline() for _ in range(15)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    writer.wait()
    store = opened()
    kept: dict[str, int] = {}
    for individual, _ in gallery(store):
        kept[individual] = kept.get(individual, 0) + 1
    answered = {f"w_{int(line)}" for line in lines if line.endswith("\n")}
    assert len(answered) >= 15
    assert answered <= set(kept)
    assert set(kept.values()) == {2}
    assert len(set(kept) - answered) <= 1
    assert store.version() == len(kept)


@pytest.mark.parametrize("address", ["", "enrolled.db", "mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_an_unsupported_store_url_is_refused_with_the_supported_kinds(address: str) -> None:
    with pytest.raises(StoreError, match=r"sqlite:///enrolled\.db or postgresql://"):
        EnrolmentStore(address)


def test_a_database_error_is_reported_without_statement_or_password() -> None:
    with pytest.raises(StoreError, match="the database of enrolments must answer, but: ") as caught:
        EnrolmentStore("postgresql://whale:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(caught.value)
    assert "SELECT" not in str(caught.value)


def test_vectors_that_cannot_be_written_raise_a_store_error(tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE vectors RENAME TO gone")
    with pytest.raises(StoreError, match=r"must answer, but: no such table: vectors\. Try"):
        store.add_vectors("b1", {picture("a").digest: np.zeros(4, np.float32)})
    store.close()


def test_a_database_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._POSTGRESQL_TIMEOUTS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StoreError, match="the database of enrolments must answer, but: "):
            EnrolmentStore(f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/whales")
    assert time.monotonic() - began < 20


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "enrolled.db").write_text("a diary, not a database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")


def test_a_store_of_another_format_is_refused(opened: Open) -> None:
    engine = opened().engine
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE whale_ray_store SET format = 99"))
    with pytest.raises(StoreError, match=r"reads stores up to format 5, but .* has format 99"):
        opened()


def test_a_database_without_boxes_is_upgraded_and_keeps_its_pictures(store: EnrolmentStore, opened: Open) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    with store.engine.begin() as connection:  # as format 1 was
        for table in ("pictures", "queries"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN box")
        connection.exec_driver_sql("UPDATE whale_ray_store SET format = 1")
    with ThreadPoolExecutor(3) as pool:  # as replicas that start together
        upgraded, *_ = pool.map(lambda _: opened(), range(3))
    box = (1.0, 2.0, 30.5, 40.0)
    upgraded.enrol("w_2", [picture("a", box)], bundle="b1")
    assert [(entry.image, entry.box) for entry in opened().state().entries] == [
        ("enrolled-a.jpg", None),
        ("enrolled-a.jpg#1,2,30.5,40", box),
    ]


def test_a_database_without_viewpoints_is_upgraded_and_keeps_its_pictures(store: EnrolmentStore, opened: Open) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    with store.engine.begin() as connection:  # as format 2 was
        for column in ("viewpoint", "species"):
            connection.exec_driver_sql(f"ALTER TABLE pictures DROP COLUMN {column}")
        connection.exec_driver_sql("UPDATE whale_ray_store SET format = 2")
    traits = AnimalTraits("left", "blue")
    opened().enrol("w_2", [dataclasses.replace(picture("b"), traits=traits)], bundle="b1")
    assert [entry.traits for entry in opened().state().entries] == [AnimalTraits(), traits]


def test_a_database_without_latest_answers_is_upgraded_and_keeps_its_queue(store: EnrolmentStore, opened: Open) -> None:
    item = ReviewItem("d1", datetime(2026, 11, 24, tzinfo=UTC), "b1", "w_1", 0.5, "new", (0.0, 0.0, 5.0, 5.0))
    ReviewQueue(store).keep(item, data=b"data", thumbnail=b"small")
    with store.engine.begin() as connection:  # as format 3 was
        latest = (f"latest_{name}" for name in ("bundle", "version", "nearest", "distance", "decision", "since"))
        for column in ("viewpoint", "species", *latest):
            connection.exec_driver_sql(f"ALTER TABLE queries DROP COLUMN {column}")
        connection.exec_driver_sql("DROP TABLE query_vectors")
        connection.exec_driver_sql("UPDATE whale_ray_store SET format = 3")
    upgraded = opened()
    assert ReviewQueue(upgraded).waiting() == [item]
    backlog = ReviewBacklog(upgraded)
    assert [one.digest for one in backlog.pending("b1", 0, most=5)] == ["d1"]
    backlog.add_vectors("b1", {"d1": np.ones(3)})
    assert backlog.vectors("b1", ["d1"])["d1"].tolist() == [1.0, 1.0, 1.0]


def test_a_database_of_format_4_is_upgraded_and_keeps_its_latest_answers(store: EnrolmentStore, opened: Open) -> None:
    item = ReviewItem("d1", datetime(2026, 11, 24, tzinfo=UTC), "b1", "w_1", 0.5, "new")
    ReviewQueue(store).keep(item, data=b"data", thumbnail=b"small")
    ReviewBacklog(store).record("b1", 1, {"d1": LatestAnswer("b1", "w_2", 0.1, "known")})
    with store.engine.begin() as connection:  # as format 4 was
        connection.exec_driver_sql("ALTER TABLE queries DROP COLUMN latest_since")
        connection.exec_driver_sql("UPDATE whale_ray_store SET format = 4")
    (upgraded,) = ReviewQueue(opened()).waiting(changed=True)
    assert upgraded.latest == LatestAnswer("b1", "w_2", 0.1, "known", since=None)


def test_two_boxes_of_a_photograph_are_two_pictures(store: EnrolmentStore) -> None:
    one, other = picture("a", (0, 0, 10, 10)), picture("a", (10, 0, 20, 10))
    assert store.enrol("w_1", [one, one], bundle="b1") == [True, True]
    assert store.enrol("w_2", [other, picture("a")], bundle="b1") == [True, True]
    with pytest.raises(EnrolledElsewhereError):
        store.enrol("w_2", [one], bundle="b1")
    assert {entry.file for entry in store.state().entries} == {"enrolled-a.jpg"}
    assert store.forget_image("w_1", one.name, hide=False) == 1
    assert gallery(store) == [("w_2", "enrolled-a.jpg"), ("w_2", other.name)]
    assert store.picture(other.name) == other.data
    state = store.state()
    assert state.is_hidden("enrolled-a.jpg", "w_1", one.name)
    assert not state.is_hidden("enrolled-a.jpg", "w_2", other.name)


def test_a_box_is_named_by_six_digits_and_alike_boxes_are_one() -> None:
    box = round_box((0.1234567, 10, 1234.5678, 99))
    data = b"\xff\xd8\xff"
    assert box == (0.123457, 10.0, 1234.57, 99.0)
    assert picture_name(data, box) == f"enrolled-{picture_digest(data)[:32]}.jpg#0.123457,10,1234.57,99"
    assert picture_digest(data, box) == picture_digest(data, (0.1234566, 10, 1234.5701, 99))
    assert len({picture_digest(data), picture_digest(data, box), picture_digest(data, (0, 10, 1234.57, 99))}) == 3
