"""What labelers send that they should not: each by itself, over real sockets, with a good label after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import libipld
import pytest

from appview_pipeline import backoff
from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES, MAX_SEQ
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.labels import labels_frame
from appview_pipeline_tests.support.label_streams import reading
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("quick")

SUBJECT = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"
POST = f"at://{SUBJECT}/app.bsky.feed.post/3kaaaaaaaaaaa"
CID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
GOOD = (SUBJECT, "", "good", False)

Act = Callable[[Labeler], object]


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=5, accounts=3) as made:
        yield made


@pytest.fixture
def labeler(network: SimulatedNetwork) -> Labeler:
    return network.labelers.add(keeps_all=True)


def raw(seq: Any, *labels: object) -> bytes:
    """A frame with whatever in the place of its sequence number."""
    return framed({"labels": list(labels)} if seq is None else {"seq": seq, "labels": list(labels)})


def framed(body: dict[str, Any], header: dict[str, Any] | None = None) -> bytes:
    """A frame with whatever body."""
    return bytes(libipld.encode_dag_cbor(header or {"op": 1, "t": "#labels"}) + libipld.encode_dag_cbor(body))


REJECTED: dict[str, tuple[Act, str]] = {
    "another's label": (lambda it: it.label(SUBJECT, "x", src="did:plc:anotherlabelerrrrrrrrrrr"), "label-source"),
    "the year 9999": (lambda it: it.label(SUBJECT, "x", cts="9999-12-31T23:59:59.999Z"), "label-future"),
    "no signature": (lambda it: it.label(SUBJECT, "x", signed=False), "label-unsigned"),
    "a signature that was changed": (lambda it: it.send([{**it.make(SUBJECT, "x"), "val": "y"}]), "label-signature"),
    "a value of 129 bytes": (lambda it: it.label(SUBJECT, "x" * 129), "label-limit"),
    "128 characters that are more bytes": (lambda it: it.label(SUBJECT, "ä" * 128), "label-limit"),
    "a long URI": (lambda it: it.label(f"{POST}{'a' * 2_000}", "x"), "label-limit"),
    "version 2": (lambda it: it.label(SUBJECT, "x", extra={"ver": 2}), "label-version"),
    "NUL in the value": (lambda it: it.label(SUBJECT, "x\0y"), "label-syntax"),
    "no value": (lambda it: it.label(SUBJECT, ""), "label-syntax"),
    "a CID that is none": (lambda it: it.label(POST, "x", cid="bafy"), "label-syntax"),
    "a label that is a list": (lambda it: it.send_raw(raw(1, [1, 2])), "label-syntax"),
    "a URI that is a number": (lambda it: it.label(SUBJECT, "x", extra={"uri": 7}), "label-syntax"),
    "text in the place of seq": (lambda it: it.send_raw(raw("7", it.make(SUBJECT, "x"))), "frame-body"),
    "no seq": (lambda it: it.send_raw(raw(None, it.make(SUBJECT, "x"))), "frame-body"),
    "a negative seq": (lambda it: it.send_raw(raw(-7, it.make(SUBJECT, "x"))), "frame-body"),
    "a seq beyond what is possible": (lambda it: it.send_raw(raw(MAX_SEQ + 1, it.make(SUBJECT, "x"))), "frame-body"),
    "labels that are no list": (lambda it: it.send_raw(framed({"seq": 1, "labels": {"a": 1}})), "frame-body"),
    "bytes that are no CBOR": (lambda it: it.send_raw(b"\xff\xfe"), "frame-cbor"),
}


def test_what_is_wrong_is_a_dead_letter(database: Database, network: SimulatedNetwork) -> None:
    """Of every labeler what is wrong is rejected, once, and the label after it is applied."""
    labelers = {what: network.labelers.add(keeps_all=True) for what in REJECTED}
    for what, labeler in labelers.items():
        REJECTED[what][0](labeler)
        labeler.label(SUBJECT, "good")
    with reading(database, network, [*labelers.values()]) as found:
        found.wait_for_cursor(*labelers.values())
        for labeler in labelers.values():
            found.wait_for_state(labeler, "connected")
    assert found.troubles == [None]
    kinds = {what: found.letters(labeler) for what, labeler in labelers.items()}
    assert kinds == {what: [kind] for what, (_, kind) in REJECTED.items()}
    counts = {what: found.column(labeler, "rejected_by_kind") for what, labeler in labelers.items()}
    assert counts == {what: {kind: 1} for what, (_, kind) in REJECTED.items()}
    assert {what: found.labels(labeler) for what, labeler in labelers.items()} == {what: {GOOD} for what in REJECTED}
    places = rows(database.url, "SELECT DISTINCT did, source, form FROM pipeline.dead_letter WHERE reason <> ''")
    assert {(did, source) for did, source, _ in places} == {(it.did, it.url) for it in labelers.values()}
    assert {form for *_, form in places} == {"label", "label-frame"}


def row(value: str, *, uri: str = SUBJECT, cid: str = "", neg: bool = False) -> tuple[str, str, str, bool]:
    return uri, cid, value, neg


TAKEN: dict[str, tuple[Act, set[tuple[str, str, str, bool]]]] = {
    "a negation of what never was": (lambda it: it.label(SUBJECT, "x", neg=True), {row("x", neg=True)}),
    "a label that has expired": (lambda it: it.label(SUBJECT, "x", exp="2020-01-01T00:00:00Z"), {row("x")}),
    "a value of 128 bytes": (lambda it: it.label(SUBJECT, "x" * 128), {row("x" * 128)}),
    "CIDs of other records": (lambda it: it.label(POST, "x", cid=CID), {row("x", uri=POST, cid=CID)}),
    "neg: false under the signature": (lambda it: it.label(SUBJECT, "x", says_not_negated=True), {row("x")}),
    "fields of its own": (lambda it: it.label(SUBJECT, "x", extra={"why": "so", "n": 1}), {row("x")}),
    "the year 1": (lambda it: it.label(SUBJECT, "x", cts="0001-01-01T00:00:00Z"), {row("x")}),
    "a text message": (lambda it: it.send_raw("{}"), set()),
    "a frame of another type": (lambda it: it.send_raw(framed({"seq": 9}, {"op": 1, "t": "#new"})), set()),
    "a frame without labels": (lambda it: it.send_together([]), set()),
    "the same label 100 times": (lambda it: it.send([it.make(SUBJECT, "x")] * 100), {row("x")}),
    "a seq that goes back": (
        lambda it: [it.label(SUBJECT, "y"), it.send_raw(raw(1, it.make(SUBJECT, "x")))],
        {row("x"), row("y")},
    ),
    "a seq that leaps": (lambda it: it.send_raw(raw(MAX_SEQ, it.make(SUBJECT, "x"))), {row("x")}),
}


def test_what_is_odd_is_taken(database: Database, network: SimulatedNetwork) -> None:
    labelers = {what: network.labelers.add(keeps_all=True) for what in TAKEN}
    for what, labeler in labelers.items():
        TAKEN[what][0](labeler)
        labeler.label(SUBJECT, "good")
    with reading(database, network, [*labelers.values()]) as found:
        found.wait_for_cursor(*labelers.values())
    assert {what: found.letters(labeler) for what, labeler in labelers.items()} == {what: [] for what in TAKEN}
    labels = {what: found.labels(labeler) for what, labeler in labelers.items()}
    assert labels == {what: {GOOD, *own} for what, (_, own) in TAKEN.items()}


def test_a_bad_label_costs_its_neighbours_nothing(
    database: Database, network: SimulatedNetwork, labeler: Labeler
) -> None:
    labels = [labeler.make(SUBJECT, f"v{number}") for number in range(20)]
    labels[7] = {**labels[7], "val": "changed"}
    labels[9] = {**labels[9], "ver": 3}
    labeler.send_together(labels)
    with reading(database, network, [labeler]) as found:
        found.wait_for_cursor(labeler)
    assert sorted(found.letters(labeler)) == ["label-signature", "label-version"]
    assert len(found.labels(labeler)) == 18


def test_a_frame_of_five_megabytes(database: Database, network: SimulatedNetwork, labeler: Labeler) -> None:
    """More labels than a transaction has: the frame is divided, and its number counts once all of it is applied."""
    uri = f"{POST}{'a' * 600}"
    labels = [labeler.make(f"{uri}{number}", "x", signed=False) for number in range(6_500)]
    assert 4_500_000 < len(labels_frame(1, labels)) < MAX_FRAME_BYTES
    labeler.send_together(labels)
    labeler.label(SUBJECT, "good")
    with reading(database, network, [labeler], APPVIEW_UNSIGNED_LABELERS=labeler.did) as found:
        found.wait_for_cursor(labeler, seconds=60)
    assert found.count("SELECT count(*) FROM bsky.label") == 6_501 == found.column(labeler, "labels")
    assert found.column(labeler, "frames") == 2


def test_a_stream_that_says_nothing(database: Database, network: SimulatedNetwork, labeler: Labeler) -> None:
    labeler.faults.silent = True
    other = network.labelers.add()
    other.label(SUBJECT, "good")
    with reading(database, network, [labeler, other]) as found:
        found.wait_for_cursor(other)
        found.wait_for_state(labeler, "connected")
        wait_for(lambda: found.column(labeler, "caught_up_at"), 5)


def test_a_message_that_is_too_large_parks_its_labeler(
    database: Database, network: SimulatedNetwork, labeler: Labeler
) -> None:
    """Where numbers leap nobody knows which number the message had, and so how to go on after it."""
    labeler.label(SUBJECT, "good")
    labeler.send_raw(b"\0" * (MAX_FRAME_BYTES + 1))
    with reading(database, network, [labeler]) as found:
        found.wait_for_state(labeler, "parked: ")
        assert "message of more than 5,000,000 bytes" in str(found.state(labeler))
        assert found.labels(labeler) == {GOOD}


def test_an_error_frame_is_no_end(database: Database, network: SimulatedNetwork, labeler: Labeler) -> None:
    labeler.faults.flood = [framed({"error": "Odd"}, {"op": -1})]
    with reading(database, network, [labeler]) as found:
        wait_for(lambda: "ended the stream: Odd" in str(found.state(labeler)), 10, lambda: str(found.state(labeler)))
        labeler.faults.flood = ()
        labeler.label(SUBJECT, "good")
        found.wait_for_cursor(labeler)
        found.wait_for_state(labeler, "connected")


def test_a_flood_of_labels_that_are_not_signed_ends(
    database: Database, network: SimulatedNetwork, labeler: Labeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labeler is parked, with the reason; its cursor is where it was left, and its document was resolved once."""
    monkeypatch.setattr(backoff, "LABELER_REJECTED", 200)
    other = network.labelers.add()
    other.label(SUBJECT, "good")
    forged = [{**labeler.make(SUBJECT, f"v{number}"), "cts": iso(1_700_000_000_000_000)} for number in range(2_000)]
    labeler.send(forged)
    asked = network.plc.asked
    with reading(database, network, [labeler, other], APPVIEW_BATCH_EVENTS="100") as found:
        found.wait_for_state(labeler, "parked: of its last ")
        assert "not signed with the labeler's key" in str(found.state(labeler))
        found.wait_for_cursor(other)
    assert 200 <= found.column(labeler, "rejected") < 1_000
    assert found.column(labeler, "cursor") > 0
    # Both labelers once, this one once more when it is parked, and later again, which a slow machine sees.
    assert 3 <= network.plc.asked - asked < 10, "not once for each label"


@pytest.mark.parametrize(
    "count",
    [pytest.param(100_000, marks=pytest.mark.slow), pytest.param(1_000_000, marks=pytest.mark.thorough)],
)
def test_very_many_labels_on_one_subject(
    database: Database, network: SimulatedNetwork, labeler: Labeler, count: int
) -> None:
    """Unsigned, so that it is the database that has the work; every batch costs what its own labels cost."""
    for first in range(0, count, 10_000):
        labels = [labeler.make(SUBJECT, f"v{number}", signed=False) for number in range(first, first + 10_000)]
        labeler.send_together(labels)
    with reading(database, network, [labeler], APPVIEW_UNSIGNED_LABELERS=labeler.did) as found:
        found.wait_for_cursor(labeler, seconds=600)
    assert found.count("SELECT count(*) FROM bsky.label WHERE NOT neg") == count
