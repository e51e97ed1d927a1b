"""Streams of labelers into the database: who is read, from where and with which key, and who is parked, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from appview_pipeline import backoff
from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import want
from appview_pipeline.store.labelers import reread
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork
from appview_pipeline_tests.simulated_network.broken_labelers import break_some
from appview_pipeline_tests.support.label_streams import reading
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("quick")

SUBJECT = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=5, accounts=6, labelers=2) as made:
        yield made


def hear_of(database: Database, labeler: Labeler) -> None:
    """An #identity event of the labeler's account has come."""
    with database.connect("writer") as connection:
        want(connection, [labeler.did])


def values(database: Database, labeler: Labeler) -> list[str]:
    found = rows(database.url, "SELECT val FROM bsky.label WHERE src = %s ORDER BY val", labeler.did)
    return [value for (value,) in found]


# ---- what is read


def test_labels_of_all_labelers_are_verified_and_applied(database: Database, network: SimulatedNetwork) -> None:
    network.advance(200)
    network.labelers.label(300)
    with reading(database, network) as it:
        it.wait_for_cursor(*network.labelers)
        network.labelers.label(100)
        it.wait_for_cursor(*network.labelers)
        for labeler in network.labelers:
            it.wait_for_state(labeler, "connected")
            assert it.letters(labeler) == []
            assert len(it.labels(labeler)) > 50
    events = it.count("SELECT count(*) FROM pipeline.label_event WHERE sig IS NOT NULL")
    assert events == it.count("SELECT sum(labels) FROM pipeline.labeler") > 300


def test_it_goes_on_where_it_ended(database: Database, network: SimulatedNetwork) -> None:
    first, second = network.labelers
    for labeler in (first, second):
        labeler.label(SUBJECT, "a")
    for value in ("b", "c"):
        with reading(database, network) as it:
            it.wait_for_cursor(first, second)
        first.label(SUBJECT, value)
    with reading(database, network) as it:
        it.wait_for_cursor(first, second)
    assert values(database, first) == ["a", "b", "c"]
    assert it.column(first, "repeated") == 0 and it.column(first, "frames") == 3


def test_all_that_the_index_knows_of_most_liked_first(database: Database, network: SimulatedNetwork) -> None:
    """Of four labelers the two with the most likes; one that is not active is none of them."""
    liked, unknown, gone, best = *network.labelers, network.labelers.add(), network.labelers.add()
    for labeler, likes, is_active in ((liked, 3, True), (unknown, None, True), (gone, 9, False), (best, 7, True)):
        uri = f"at://{labeler.did}/app.bsky.labeler.service/self"
        rows(
            database.url, "INSERT INTO pipeline.repo (did, active) VALUES (%s, %s) RETURNING 1", labeler.did, is_active
        )
        rows(
            database.url,
            'INSERT INTO bsky.labeler (uri, cid, creator, "createdAt", "indexedAt") VALUES (%s, %s, %s, %s, %s) '
            "RETURNING 1",
            *(uri, "cid", labeler.did, "2025-01-01T00:00:00.000Z", "2025-01-01T00:00:00.000Z"),
        )
        if likes is not None:
            rows(database.url, 'INSERT INTO bsky.post_agg (uri, "likeCount") VALUES (%s, %s) RETURNING 1', uri, likes)
    with reading(database, network, APPVIEW_LABELERS="all", APPVIEW_LABELERS_LIMIT="2") as it:
        it.wait_for_state(best, "connected")
        read = {did for (did,) in rows(database.url, "SELECT did FROM pipeline.labeler WHERE is_wanted")}
        assert read == {best.did, liked.did}
    with reading(database, network, APPVIEW_LABELERS="all") as it:
        it.wait_for_state(unknown, "connected")
        assert it.state(gone) is None


def test_a_labeler_that_opts_out_is_not_read_any_more(database: Database, network: SimulatedNetwork) -> None:
    leaving, staying = network.labelers
    with reading(database, network) as it:
        leaving.label(SUBJECT, "before")
        it.wait_for_cursor(leaving)
        one(database.url, "SELECT pipeline.forbid_data_collection(%s)", leaving.did)
        leaving.label(SUBJECT, "after")
        wait_for(lambda: it.column(leaving, "is_wanted") is False, 5)
        staying.label(SUBJECT, "after")
        it.wait_for_cursor(staying)
        assert values(database, leaving) == ["before"]
    assert it.letters(leaving) == []


# ---- keys and endpoints


@pytest.mark.parametrize("says", [True, False])
def test_another_key_is_used_from_then_on(database: Database, network: SimulatedNetwork, says: bool) -> None:
    """Announced by an #identity event, or found because a signature does not fit. What the old key signs from then on
    is rejected: nothing falls back to it."""
    labeler = network.labelers[0]
    labeler.keeps_all = True
    labeler.label(SUBJECT, "old")
    with reading(database, network) as it:
        it.wait_for_cursor(labeler)
        old = labeler.key
        network.labelers.rotate_key(labeler, signs_again=False)
        if says:
            hear_of(database, labeler)
            key = "SELECT labeler_key FROM pipeline.identity WHERE did = %s"
            before = one(database.url, key, labeler.did)
            wait_for(lambda: one(database.url, key, labeler.did) != before, 5)
            time.sleep(0.3)
        labeler.label(SUBJECT, "new")
        labeler.label(SUBJECT, "forged", key=old)
        labeler.label(SUBJECT, "newer")
        it.wait_for_cursor(labeler)
        assert values(database, labeler) == ["new", "newer", "old"]
        assert it.letters(labeler) == ["label-signature"]
        it.wait_for_state(labeler, "connected")


def test_nothing_is_rejected_while_the_document_can_not_be_had(
    database: Database, network: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels wait, and their labeler says why; the others go on."""
    monkeypatch.setattr(backoff, "LABELER_HELD_SECONDS", 1.0)
    labeler, other = network.labelers
    with reading(database, network) as it:
        labeler.label(SUBJECT, "old")
        it.wait_for_cursor(labeler)
        network.plc.faults.everybody = "fail"
        network.labelers.rotate_key(labeler, says=False)
        labeler.label(SUBJECT, "new")
        it.wait_for_state(labeler, "waiting: a signature does not fit its key, and its DID document can't be resolved")
        other.label(SUBJECT, "new")
        it.wait_for_cursor(other)
        assert it.letters(labeler) == []
        network.plc.faults.everybody = None
        it.wait_for_cursor(labeler, seconds=30)
        assert values(database, labeler) == ["new", "old"]
        it.wait_for_state(labeler, "connected")


def test_another_server_is_read_from_its_beginning(database: Database, network: SimulatedNetwork) -> None:
    labeler = network.labelers[0]
    for value in ("a", "b", "c"):
        labeler.label(SUBJECT, value)
    with reading(database, network) as it:
        it.wait_for_cursor(labeler)
        moved = network.labelers.move(labeler)
        moved.label(SUBJECT, "d")
        hear_of(database, labeler)
        it.wait_for_cursor(moved)
        wait_for(lambda: values(database, moved) == ["a", "b", "c", "d"], 5)
        assert it.column(moved, "endpoint") == moved.url


def test_a_changed_document_unparks(database: Database, network: SimulatedNetwork) -> None:
    labeler = network.labelers[0]
    labeler.label(SUBJECT, "a")
    network.labelers.withdraw(labeler, server=False, says=False)
    with reading(database, network) as it:
        it.wait_for_state(labeler, "parked: its DID document has no key for labels (#atproto_label)")
        network.labelers.rotate_key(labeler)
        hear_of(database, labeler)
        it.wait_for_cursor(labeler)
        it.wait_for_state(labeler, "connected")


# ---- parked, and why


Break = Callable[[SimulatedNetwork, Labeler], object]

PARKED: dict[str, tuple[Break, str]] = {
    "no document": (lambda it, labeler: it.plc.faults.named.update({labeler.did: "missing"}), "there is no DID docume"),
    "no server": (lambda it, labeler: it.labelers.withdraw(labeler, key=False), "its DID document names no label serv"),
    "no key": (lambda it, labeler: it.labelers.withdraw(labeler, server=False), "its DID document has no key"),
    "no such stream": (lambda it, labeler: refuse(labeler, 404), "127.0.0.1 answered HTTP 404"),
    "not allowed": (lambda it, labeler: refuse(labeler, 405), "127.0.0.1 answered HTTP 405"),
    "not there": (lambda it, labeler: refuse(labeler, 501), "127.0.0.1 answered HTTP 501"),
}


def refuse(labeler: Labeler, status: int) -> None:
    labeler.faults.refuse_every = status


def test_labelers_that_can_not_be_read_are_parked(database: Database, network: SimulatedNetwork) -> None:
    labelers = {what: network.labelers.add() for what in PARKED}
    for what, labeler in labelers.items():
        PARKED[what][0](network, labeler)
    with reading(database, network) as it:
        for what, labeler in labelers.items():
            it.wait_for_state(labeler, f"parked: {PARKED[what][1]}")
        network.labelers[0].label(SUBJECT, "a")
        it.wait_for_cursor(network.labelers[0])


def test_servers_that_may_not_be_asked(database: Database, network: SimulatedNetwork) -> None:
    """Without APPVIEW_ALLOW_PRIVATE_HOSTS its document would not be read so; here it was, by another release."""
    labeler = network.labelers[0]
    rows(
        database.url,
        "INSERT INTO pipeline.identity (did, state, labeler, labeler_key, resolved_at) "
        "VALUES (%s, 'found', 'https://169.254.169.254', %s, now()) RETURNING 1",
        labeler.did,
        public_key_of(b"1" * 32).did_key(),
    )
    with reading(database, network, [labeler], APPVIEW_ALLOW_PRIVATE_HOSTS="0", APPVIEW_WELL_KNOWN_URL="") as it:
        it.wait_for_state(labeler, "parked: its server may not be asked: the address 169.254.169.254 is ")


def test_a_server_that_was_set_up_anew_waits_for_a_person(database: Database, network: SimulatedNetwork) -> None:
    """Nothing is read from the beginning by itself; once somebody asks for that it is, at once."""
    labeler = network.labelers[0]
    for number in range(5):
        labeler.label(SUBJECT, f"v{number}")
    with reading(database, network) as it:
        it.wait_for_cursor(labeler)
        labeler.restore(2)
        labeler.label(SUBJECT, "after")
        it.wait_for_state(labeler, "parked: ")
        assert "lies in its future" in str(it.state(labeler)) and "--from-start" in str(it.state(labeler))
        assert it.column(labeler, "cursor") == 5
        with database.connect("writer") as connection:
            assert reread(connection, labeler.did)
        it.wait_for_cursor(labeler)
        assert "after" in values(database, labeler)
        it.wait_for_state(labeler, "connected")


def test_a_cursor_that_was_moved_back_is_noticed_without_a_new_label(
    database: Database, network: SimulatedNetwork
) -> None:
    """As when a labeler is allowed again a moment after it opted out."""
    labeler = network.labelers[0]
    for value in ("a", "b"):
        labeler.label(SUBJECT, value)
    with reading(database, network) as it:
        it.wait_for_cursor(labeler)
        rows(database.url, "UPDATE pipeline.labeler SET cursor = 0 WHERE did = %s RETURNING 1", labeler.did)
        it.wait_for_cursor(labeler)
        assert it.column(labeler, "repeated") == 2


# ---- gaps


def test_what_a_server_has_forgotten_is_a_gap(database: Database, network: SimulatedNetwork) -> None:
    """The stream is read from the beginning once; the gap closes when that has caught up."""
    labeler = network.labelers[0]
    gaps = "SELECT kind, did, from_text, resolved_at IS NULL FROM pipeline.gap"
    labeler.label(SUBJECT, "a")
    with reading(database, network) as it:
        it.wait_for_cursor(labeler)
    for number in range(6):
        labeler.label(SUBJECT, f"v{number}")
    labeler.forget_before(5)
    connections = labeler.connections
    with reading(database, network) as it:
        wait_for(lambda: rows(database.url, gaps) == [("labels", labeler.did, "1", False)], 10)
        it.wait_for_cursor(labeler)
        assert it.column(labeler, "reread_at") is not None
        assert labeler.connections - connections == 2
    with reading(database, network) as it:
        it.wait_for_state(labeler, "connected")
    assert rows(database.url, gaps) == [("labels", labeler.did, "1", False)]


def test_a_server_that_forgets_all_the_time_is_not_read_anew_all_the_time(
    database: Database, network: SimulatedNetwork
) -> None:
    labeler = network.labelers[0]
    for round_ in range(3):
        for number in range(5):
            labeler.label(SUBJECT, f"v{round_}{number}")
        labeler.forget_before(labeler.seq)
        with reading(database, network) as it:
            it.wait_for_cursor(labeler)
            rows(database.url, "UPDATE pipeline.labeler SET caught_up_at = NULL RETURNING 1")
            wait_for(lambda: it.column(labeler, "caught_up_at"), 10)
    reread_at = it.column(labeler, "reread_at")
    assert reread_at is not None
    found = rows(
        database.url, "SELECT from_text, resolved_at IS NULL, detected_at > %s FROM pipeline.gap ORDER BY id", reread_at
    )
    assert found == [("5", False, False), ("10", True, True)], "the second gap waits for tomorrow"


# ---- nobody holds up the others


@pytest.mark.parametrize("labelers", [20, pytest.param(50, marks=pytest.mark.slow)])
def test_many_labelers_of_which_ten_are_broken(
    database: Database, monkeypatch: pytest.MonkeyPatch, labelers: int
) -> None:
    monkeypatch.setattr(backoff, "LABELER_REJECTED", 15)
    with SimulatedNetwork(seed=6, accounts=6, labelers=labelers) as network:
        broken = break_some(network.labelers, 10)
        whole = [labeler for labeler in network.labelers if labeler.did not in broken]
        for labeler in network.labelers:
            for number in range(20):
                labeler.label(SUBJECT, f"v{number}")
        with reading(database, network) as it:
            it.wait_for_cursor(*whole, seconds=60)
            for labeler in whole:
                labeler.label(SUBJECT, "later")
            began = time.monotonic()
            it.wait_for_cursor(*whole, seconds=10)
            assert time.monotonic() - began < 5
            for labeler in whole:
                it.wait_for_state(labeler, "connected")
                wait_for(lambda labeler=labeler: it.column(labeler, "caught_up_at"), 5)  # type: ignore[misc]
            states = {
                way: str(it.state(labeler)) for labeler in network.labelers for way in [broken.get(labeler.did)] if way
            }
        counts = rows(database.url, "SELECT count(*) FROM bsky.label WHERE src = ANY (%s)", [it.did for it in whole])
        assert counts == [(len(whole) * 21,)]
        assert one(database.url, "SELECT count(*) FROM bsky.label") == len(whole) * 21
        assert {way: state.partition(":")[0] for way, state in states.items()} == {
            "no key": "parked",
            "hangs": "waiting",
            "wrong key": "parked",
            "garbage": "parked",
            "silent": "connected",
            "another source": "parked",
            "refuses": "waiting",
            "fails": "waiting",
            "unsigned": "parked",
            "future": "parked",
        }, states
