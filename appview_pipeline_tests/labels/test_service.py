"""The label service: labels made here are all present, signed, and in the order in which they were said."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from coincurve import PrivateKey

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels import service
from appview_pipeline.labels.service import Applied, LabelRequest, apply_labels, negate_labels, query_labels
from appview_pipeline.protocol.label import read_label, verify_label
from appview_pipeline.protocol.signing import VerifyingKey, public_key_of
from appview_pipeline.protocol.syntax import format_milliseconds
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelBatch, LabelRow
from appview_pipeline.store.labels import apply_labels as apply_batch
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.tables import one, rows

OURS = "did:plc:" + "o" * 24
ANN = "did:plc:" + "a" * 24
POST = f"at://{ANN}/app.bsky.feed.post/3l"
KEY = bytes(range(1, 33))
NOW = 1_790_000_000.5
CIDS = [
    "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
    "bafyreibdhw5jtzj4tzgxnkaz3a4tgmsdwlpaqhpwgxcx5k2qaz4t6xe2ri",
]


def clock() -> float:
    """A clock that stands still."""
    return NOW


@pytest.fixture
def settings(database: Database) -> Settings:
    return Settings(database_url=database.url, labeler_did=OURS, labeler_key=KEY)


def in_effect(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT uri, cid, val FROM bsky.label WHERE NOT neg ORDER BY uri, val, cid")


def events(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT uri, cid, val, neg, cts FROM pipeline.label_event ORDER BY id")


def test_a_label_is_made_signed_and_taken_back(database: Database, settings: Settings) -> None:
    assert apply_labels(settings, database, [LabelRequest(POST, "spam")], clock=clock) == Applied(1, labels=1)
    (label,) = query_labels(database).labels
    assert (label.src, label.uri, label.cid, label.val, label.neg) == (OURS, POST, "", "spam", False)
    assert label.cts == format_milliseconds(int(NOW * 1_000)) and label.exp is None and label.signed is None
    fields = {"ver": 1, "src": OURS, "uri": POST, "val": "spam", "cts": label.cts, "sig": label.sig}
    assert verify_label(VerifyingKey(public_key_of(KEY)), read_label(fields, int(NOW * 1_000_000)), fields) is not None
    assert negate_labels(settings, database, [LabelRequest(POST, "spam")]) == Applied(1, negations=1)
    assert query_labels(database).labels == [] and in_effect(database) == []
    (negation,) = query_labels(database, with_negated=True).labels
    assert negation.neg and negation.sig is not None


def test_without_a_key_labels_are_not_signed(database: Database) -> None:
    settings = Settings(database_url=database.url, labeler_did=OURS)
    apply_labels(settings, database, [LabelRequest(ANN, "spam")])
    assert query_labels(database).labels[0].sig is None
    with pytest.raises(OperatorError, match="APPVIEW_LABELER_DID"):
        apply_labels(Settings(database_url=database.url), database, [LabelRequest(ANN, "spam")])


@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_all_labels_of_one_millisecond_are_present(database: Database, settings: Settings, count: int) -> None:
    """Values, subjects and versions: whatever distinguishes two labels."""
    requests = [LabelRequest(f"at://{ANN}/app.bsky.feed.post/{n}", "spam") for n in range(count - 1_000)]
    requests += [LabelRequest(POST, f"v{n}") for n in range(998)] + [LabelRequest(POST, "spam", cid) for cid in CIDS]
    assert apply_labels(settings, database, requests, clock=clock) == Applied(count, labels=count)
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE NOT neg") == count
    assert one(database.url, "SELECT count(DISTINCT cts) FROM pipeline.label_event") == 1
    assert apply_labels(settings, database, requests[-2_000:], clock=clock) == Applied(2_000, unchanged=2_000)
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event") == count


def test_20_threads_at_once_lose_none(database: Database, settings: Settings) -> None:
    """Each labels subjects of its own and one that all of them label; at the same moment, in the same millisecond."""
    together = threading.Barrier(20)

    def label(thread: int) -> Applied:
        own = [LabelRequest(f"at://{ANN}/app.bsky.feed.post/{thread}-{n}", "spam") for n in range(50)]
        together.wait()
        return apply_labels(settings, database, [*own, LabelRequest(POST, "spam")], clock=clock)

    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(label, range(20)))
    assert sum(it.labels for it in done) == 1_001 and sum(it.unchanged for it in done) == 19
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE NOT neg") == 1_001


def test_threads_that_contradict_each_other_leave_what_was_said_last(database: Database, settings: Settings) -> None:
    """In one millisecond: each label and negation is dated after the one before it, and none is lost."""
    together = threading.Barrier(8)

    def contradict(thread: int) -> int:
        together.wait()
        done = 0
        for _ in range(6):
            request = LabelRequest(POST, "spam", neg=thread % 2 == 0)
            done += apply_labels(settings, database, [request], force=True, clock=clock).changed
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(contradict, range(8))) == 48
    said = events(database)
    assert len(said) == 48 and [it[-1] for it in said] == sorted({it[-1] for it in said})
    assert bool(in_effect(database)) == (not said[-1][3])


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize("later", [0.0, -86_400.0], ids=["the same millisecond", "a clock that went back"])
def test_what_is_said_last_counts(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, batch: int, later: float
) -> None:
    monkeypatch.setattr(service, "BATCH", batch)
    moments = iter(range(10_000))
    said = [
        (LabelRequest(POST, "spam"), [(POST, "", "spam")]),
        (LabelRequest(POST, "spam", CIDS[0]), [(POST, "", "spam"), (POST, CIDS[0], "spam")]),
        (LabelRequest(POST, "spam", neg=True), []),
        (LabelRequest(POST, "spam"), [(POST, "", "spam")]),
        (LabelRequest(POST, "spam", neg=True), []),
        (LabelRequest(POST, "spam", CIDS[1]), [(POST, CIDS[1], "spam")]),
        (LabelRequest(POST, "spam", exp="9999-01-01"), [(POST, "", "spam"), (POST, CIDS[1], "spam")]),
    ]
    for length in range(1, len(said) + 1):
        rows(database.url, "DELETE FROM pipeline.label_event; DELETE FROM bsky.label")
        requests = [request for request, _ in said[:length]]
        done = apply_labels(settings, database, requests, clock=lambda: NOW + later * next(moments))
        assert (done.unchanged, in_effect(database)) == (0, said[length - 1][1]), length


def test_what_is_so_already_is_not_said_again_unless_forced(database: Database, settings: Settings) -> None:
    label, until = LabelRequest(POST, "spam"), LabelRequest(POST, "spam", exp="2999-01-01T00:00:00+01:00")
    assert negate_labels(settings, database, [label]) == Applied(1, unchanged=1), "there is nothing to take back"
    assert apply_labels(settings, database, [label, label, until, until]) == Applied(4, labels=2, unchanged=2)
    assert apply_labels(settings, database, [until]).unchanged == 1
    assert query_labels(database).labels[0].exp == "2998-12-31T23:00:00.000Z"
    assert apply_labels(settings, database, [until], force=True).labels == 1
    assert negate_labels(settings, database, [label, label]) == Applied(2, negations=1, unchanged=1)
    assert negate_labels(settings, database, [label], force=True).negations == 1


def test_an_expired_label_is_not_in_effect(database: Database, settings: Settings) -> None:
    request = LabelRequest(POST, "spam", exp=format_milliseconds(int(NOW * 1_000) + 1))
    assert apply_labels(settings, database, [request], clock=clock).labels == 1
    assert negate_labels(settings, database, [request_of(POST)], clock=lambda: NOW + 1).unchanged == 1
    assert apply_labels(settings, database, [request_of(POST)], clock=lambda: NOW + 1).labels == 1


def request_of(subject: str) -> LabelRequest:
    return LabelRequest(subject, "spam")


def test_each_version_with_a_label_gets_a_negation(database: Database, settings: Settings) -> None:
    """Readers with the reference's tables take labels of two versions for different ones."""
    apply_labels(settings, database, [LabelRequest(POST, "spam", cid) for cid in (None, *CIDS)])
    assert negate_labels(settings, database, [LabelRequest(POST, "spam")]) == Applied(1, negations=3)
    assert sorted(cid for _, cid, _, neg, _ in events(database) if neg) == sorted(["", *CIDS])
    apply_labels(settings, database, [LabelRequest(POST, "spam", cid) for cid in CIDS])
    assert negate_labels(settings, database, [LabelRequest(POST, "spam", CIDS[0])]) == Applied(1, negations=1)
    assert in_effect(database) == []


def test_labels_of_a_stream_of_the_same_source_are_followed(database: Database, settings: Settings) -> None:
    """They may be dated in microseconds, and ahead of our clock."""
    micros = int((NOW + 100) * 1_000_000) + 999
    label = LabelRow(
        src=OURS,
        uri=POST,
        cid="",
        val="spam",
        neg=False,
        cts="2026-09-21T14:15:00.500999Z",
        cts_micros=micros,
        exp=None,
        exp_micros=None,
        seq=7,
        sig=None,
        signed=None,
    )
    with database.connect("writer") as connection:
        apply_batch(connection, LabelBatch([label]))
    assert negate_labels(settings, database, [LabelRequest(POST, "spam")], clock=clock).negations == 1
    assert in_effect(database) == []
    assert events(database)[-1][-1] == format_milliseconds(int((NOW + 100) * 1_000) + 1)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (LabelRequest("spam", POST), "neither a DID nor a handle"),
        (LabelRequest("did:plc:short", "spam"), "is not a DID"),
        (LabelRequest("nobody.test", "spam"), "no account is known to have the handle nobody.test"),
        (LabelRequest("at://nobody.test/app.bsky.feed.post/3l", "spam"), "no account is known"),
        (LabelRequest(f"at://{ANN}/app.bsky.feed.post", "spam"), "names no record"),
        (LabelRequest(f"at://{ANN}/app.bsky.feed.post/3l/4", "spam"), "is not an AT URI"),
        (LabelRequest("https://example.com", "spam"), "neither a DID nor a handle"),
        (LabelRequest(POST, ""), "is not a valid label: val is not a text, or an empty one"),
        (LabelRequest(POST, "é" * 65), "val of 130 bytes"),
        (LabelRequest(POST, "a\0b"), "NUL"),
        (LabelRequest(POST, "spam\ud800"), "not Unicode"),
        (LabelRequest(POST, "spam", cid="bafy"), "cid is not a CID"),
        (LabelRequest(ANN, "spam", cid=CIDS[0]), "which has no CID"),
        (LabelRequest(POST, "spam", exp="tomorrow"), "is not a datetime in the future"),
        (LabelRequest(POST, "spam", exp="2020-01-01T00:00:00Z"), "is not a datetime in the future"),
        (LabelRequest(POST, "spam", exp="2999-01-01T00:00:00Z", neg=True), "does not expire"),
    ],
)
def test_what_is_not_valid_is_refused(
    database: Database, settings: Settings, request_: LabelRequest, reason: str
) -> None:
    good = LabelRequest(POST, "good")
    with pytest.raises(OperatorError, match=reason):
        apply_labels(settings, database, [good, request_])
    assert events(database) == [], "nothing of the batch"
    refused: list[tuple[int, str]] = []
    done = apply_labels(
        settings, database, [good, request_, good], refuse=lambda place, why: refused.append((place, why))
    )
    assert (done.labels, done.refused, done.unchanged) == (1, 1, 1)
    assert [place for place, _ in refused] == [1] and reason in refused[0][1]


def test_handles_of_known_accounts_stand_for_them(database: Database, settings: Settings) -> None:
    rows(
        database.url,
        "INSERT INTO bsky.actor (did, handle, \"indexedAt\") VALUES (%s, 'ann.test', '2026-01-01T00:00:00.000Z')",
        ANN,
    )
    rows(
        database.url,
        "INSERT INTO pipeline.identity (did, handle, claimed_handle) VALUES (%s, 'ann.test', 'ann.test')",
        ANN,
    )
    subjects = ["ann.test", "@Ann.test", "at://ann.test/app.bsky.feed.post/3l", f"at://{ANN}"]
    apply_labels(settings, database, [LabelRequest(subject, "spam") for subject in subjects])
    assert {uri for uri, _, _ in in_effect(database)} == {ANN, POST}


def test_requests_are_taken_as_they_come_and_progress_is_shown(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that fails leaves the batches before, and the rest can be said again."""
    monkeypatch.setattr(service, "BATCH", 10)
    shown: list[int] = []

    def source() -> Iterator[LabelRequest]:
        yield from (LabelRequest(f"at://{ANN}/app.bsky.feed.post/{n}", "spam") for n in range(25))
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        apply_labels(settings, database, source(), progress=lambda done: shown.append(done.requests))
    assert shown == [10, 20] and len(in_effect(database)) == 20


def test_a_labeler_that_has_opted_out_makes_no_labels(database: Database, settings: Settings) -> None:
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", OURS)
    with pytest.raises(OperatorError, match=r"has opted out or was deleted"):
        apply_labels(settings, database, [LabelRequest(POST, "spam")])
    assert events(database) == []


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said; other tests of this process may have libraries log more than that."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("known", [None, PrivateKey(KEY), PrivateKey(bytes(32 * [7]))], ids=["none", "ours", "other"])
def test_a_key_that_the_did_document_does_not_have_is_warned_of(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture, known: PrivateKey | None
) -> None:
    apply_labels(settings, database, [LabelRequest(POST, "spam")])
    assert warnings_of(caplog) == [], "nothing is known of the labeler"
    save_key(database, OURS, PrivateKey(KEY), labeler="https://labels.test", label_key=known)
    apply_labels(settings, database, [LabelRequest(POST, "rude")])
    assert ["others will refuse them" in words for words in warnings_of(caplog)] == (
        [] if known is not None and known.secret == KEY else [True]
    )
    assert KEY.hex() not in caplog.text
