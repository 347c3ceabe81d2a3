"""Proposed enrolments: a second person approves, what is not approved never matches, and one decision counts."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from services import enrolment_server
from test_gallery_store import picture
from test_routes_gallery import photograph
from test_routes_identify import check_problem

from whale_ray.errors import EnrolledElsewhereError, NotWaitingError
from whale_ray.serving.auth.access_control import AccessPolicy
from whale_ray.serving.auth.api_keys import read_keys
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.export import export_enrolled
from whale_ray.serving.gallery.proposals import Proposals
from whale_ray.serving.gallery.review.review_queue import ReviewItem, ReviewQueue
from whale_ray.serving.gallery.transactions import Claim

KEYS = {"boat": "identify,propose", "office": "identify,enrol", "both": "identify,propose,enrol"}


class Caller:
    """Calls the service with the key of a person."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        return self._client.request(
            method, path, headers={"Authorization": f"Bearer the-secret-key-of-{name}"}, **options
        )

    def propose(self, individual: str, data: bytes, *, name: str = "boat", **params: str) -> int:
        answer = self(name, "POST", f"/v1/individuals/{individual}/proposals", content=data, params=params)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["proposals"][0])

    def proposals(self, state: str = "waiting", **params: object) -> list[dict[str, Any]]:
        answer = self("office", "GET", "/v1/proposals", params={"state": state, **params})
        return list(answer.json()["proposals"])

    def nearest(self, data: bytes) -> tuple[str, float]:
        (result,) = self("boat", "POST", "/v1/identify", content=data, params={"top": 1}).json()["results"]
        return result["candidates"][0]["individual"], result["candidates"][0]["distance"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proposals")


@pytest.fixture(scope="module")
def call(bundle: Path, folder: Path) -> Iterator[Caller]:
    file = folder / "keys"
    file.write_text("".join(f"{name} {scopes} the-secret-key-of-{name}\n" for name, scopes in KEYS.items()))
    file.chmod(0o600)
    policy = AccessPolicy(read_keys(file, None))
    with enrolment_server(bundle, folder, policy) as address, httpx.Client(base_url=address) as client:
        yield Caller(client)


@pytest.mark.integration
def test_a_proposal_matches_after_another_key_has_approved_it(call: Caller, folder: Path) -> None:
    data = photograph(60)
    before = call.nearest(data)
    number = call.propose("w_60", data)
    assert call.propose("w_60", data) == number, "the same photograph waits once"
    assert call.nearest(data) == before
    check_problem(call("office", "GET", "/v1/individuals/w_60"), 404)
    store = EnrolmentStore(f"sqlite:///{folder}/enrolled.db")
    assert export_enrolled(store, folder / "out", folder / "review.csv") == 0
    (waiting,) = call.proposals()
    assert (waiting["number"], waiting["proposed_by"], waiting["decided_by"]) == (number, "boat", None)
    small = call("office", "GET", f"/v1/proposals/{number}/thumbnail")
    with Image.open(io.BytesIO(small.content)) as picture:
        assert picture.format == "JPEG"
    check_problem(call("boat", "POST", f"/v1/proposals/{number}/approve"), 403, "the scope `enrol`")
    answer = call("office", "POST", f"/v1/proposals/{number}/approve").json()
    assert answer["images"][0]["status"] == "enrolled"
    name, distance = call.nearest(data)
    assert (name, distance < 1e-3) == ("w_60", True)
    assert call.proposals() == []
    (decided,) = call.proposals("approved")
    assert (decided["proposed_by"], decided["decided_by"]) == ("boat", "office")
    assert decided["proposed_at"] <= decided["decided_at"]
    check_problem(call("office", "POST", f"/v1/proposals/{number}/approve"), 404, "/v1/proposals")
    store.close()


def test_the_key_that_proposed_does_not_approve(call: Caller) -> None:
    number = call.propose("w_61", photograph(61), name="both")
    check_problem(call("both", "POST", f"/v1/proposals/{number}/approve"), 403, "a second person approves")
    assert call.nearest(photograph(61))[0] != "w_61"
    assert call("office", "POST", f"/v1/proposals/{number}/approve").status_code == 200


def test_a_rejected_proposal_is_erased_and_stays_in_the_audit_trail(call: Caller, folder: Path) -> None:
    data = photograph(62)
    number = call.propose("w_62", data)
    pixels = data[60:200]
    assert any(pixels in path.read_bytes() for path in folder.glob("enrolled.db*"))
    assert call("office", "DELETE", f"/v1/proposals/{number}").json()["proposals"] == [number]
    assert not any(pixels in path.read_bytes() for path in folder.glob("enrolled.db*"))
    assert [(one["number"], one["decided_by"]) for one in call.proposals("rejected")] == [(number, "office")]
    check_problem(call("office", "DELETE", f"/v1/proposals/{number}"), 404, "/v1/proposals")


def test_forgetting_an_individual_erases_its_proposals(call: Caller) -> None:
    call.propose("w_63", photograph(63))
    waiting = call.propose("w_01", photograph(64))
    assert call("office", "DELETE", "/v1/individuals/w_63").json()["photographs"] == 1
    check_problem(call("office", "DELETE", "/v1/individuals/w_63"), 404)
    assert call("office", "DELETE", "/v1/individuals/w_01").status_code == 200
    assert not {"w_01", "w_63"} & {one["individual"] for one in call.proposals()}
    check_problem(call("office", "POST", f"/v1/proposals/{waiting}/approve"), 404)


def test_a_box_is_proposed_with_it_and_lists_have_pages(call: Caller) -> None:
    numbers = [call.propose("w_65", photograph(65), box=box) for box in ("0,0,40,40", "10,0,60,40")]
    page = call("office", "GET", "/v1/proposals", params={"limit": 1}).json()
    assert (page["total"], page["proposals"][0]["box"]) == (2, [10, 0, 60, 40])
    rest = call("office", "GET", page["next"]).json()
    assert [one["number"] for one in rest["proposals"]] == numbers[:1]
    assert rest["next"] is None
    for number in numbers:
        call("office", "DELETE", f"/v1/proposals/{number}")


@pytest.fixture
def store(url: str) -> Iterator[EnrolmentStore]:
    opened = EnrolmentStore(url)
    yield opened
    opened.close()


def queue_photograph(store: EnrolmentStore, photo: EnrolledPicture) -> None:
    item = ReviewItem(photo.digest, datetime(2026, 11, 24, tzinfo=UTC), "b1", "w_1", 0.5, "new")
    ReviewQueue(store).keep(item, data=photo.data, thumbnail=photo.thumbnail)


@pytest.mark.parametrize("queue", ["proposals", "review queue"])
def test_a_photograph_that_is_rejected_while_it_is_embedded_is_not_enrolled(store: EnrolmentStore, queue: str) -> None:
    photo, proposals, review = picture("a"), Proposals(store), ReviewQueue(store)
    queue_photograph(store, photo)
    (number,) = proposals.propose("w_1", [photo], by="boat")
    if queue == "proposals":
        claim = proposals.approval(number, by="office")
        assert proposals.reject(number, by="home")
    else:
        claim = review.removal(photo.digest)
        assert review.drop(photo.digest)
    with pytest.raises(NotWaitingError, match="List the queue again"):
        store.enrol("w_1", [photo], bundle="b1", claim=claim)
    assert store.state().entries == ()
    assert store.version() == 0


@pytest.mark.parametrize("queue", ["proposals", "review queue"])
def test_of_decisions_at_one_moment_the_first_counts(store: EnrolmentStore, queue: str) -> None:
    proposals, review = Proposals(store), ReviewQueue(store)
    is_proposal = queue == "proposals"

    def approve(photo: EnrolledPicture, claim: Claim, start: threading.Barrier) -> bool:
        start.wait()
        try:
            store.enrol("w_1", [photo], bundle="b1", claim=claim)
        except NotWaitingError:
            return False
        return True

    def reject(photo: EnrolledPicture, number: int, start: threading.Barrier) -> bool:
        start.wait()
        return proposals.reject(number, by="home") if is_proposal else review.drop(photo.digest)

    for attempt in range(12):
        photo, start = picture(f"of attempt {attempt}"), threading.Barrier(3)
        (number,) = proposals.propose("w_1", [photo], by="boat")
        queue_photograph(store, photo)
        claims = [
            proposals.approval(number, by=key) if is_proposal else review.removal(photo.digest)
            for key in ("first", "second")
        ]
        with ThreadPoolExecutor(3) as threads:
            rejected = threads.submit(reject, photo, number, start)
            approved = [threads.submit(approve, photo, claim, start) for claim in claims]
            is_rejected, is_approved = rejected.result(), [one.result() for one in approved]
        assert [is_rejected, *is_approved].count(True) == 1
        assert any(is_approved) == (photo.digest in {entry.digest for entry in store.state().entries})
        if is_proposal:
            assert any(is_approved) == (number in {one.number for one in proposals.list("approved")})
            assert is_rejected == (number in {one.number for one in proposals.list("rejected")})


def test_a_proposal_of_an_enrolled_photograph_is_approved_without_a_new_version(store: EnrolmentStore) -> None:
    photo, proposals = picture("a"), Proposals(store)
    store.enrol("w_1", [photo], bundle="b1")
    (number,) = proposals.propose("w_1", [photo], by="boat")
    claim = proposals.approval(number, by="office")
    assert store.enrol("w_1", [photo], bundle="b1", claim=claim) == [False]
    assert [one.number for one in proposals.list("approved")] == [number]
    assert (store.version(), len(store.versions())) == (1, 1)


def test_a_proposal_of_a_photograph_of_another_individual_goes_on_waiting(store: EnrolmentStore) -> None:
    photo, proposals = picture("a"), Proposals(store)
    (number,) = proposals.propose("w_2", [photo], by="boat")
    store.enrol("w_1", [photo], bundle="b1")
    with pytest.raises(EnrolledElsewhereError):
        store.enrol("w_2", [photo], bundle="b1", claim=proposals.approval(number, by="office"))
    assert proposals.waiting(number) is not None


def test_a_service_without_keys_takes_no_proposals(bundle: Path, tmp_path: Path) -> None:
    with enrolment_server(bundle, tmp_path) as address, httpx.Client(base_url=address) as client:
        answer = client.post("/v1/individuals/w_60/proposals", content=photograph(60))
        check_problem(answer, 403, "proposals need API keys")
