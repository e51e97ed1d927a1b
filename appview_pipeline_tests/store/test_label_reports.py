"""What is said of labelers: how far behind each is, its labels in effect, what was rejected, who reads."""

from __future__ import annotations

import json

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline.store.label_reports import is_lock_held, label_status, labeler_reports, rejected_today
from appview_pipeline.store.labelers import LOCK
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline.store.sql import sections
from appview_pipeline.store.status import read_status
from appview_pipeline_tests.support.labelers import add_labeler
from appview_pipeline_tests.support.tables import rows

A, B = "did:plc:aaaa", "did:plc:bbbb"
NOW, HOUR_AGO = "now()", "now() - interval '1 h'"


@pytest.mark.parametrize(
    ("columns", "lag"),
    [
        pytest.param({"state": "new", "state_at": HOUR_AGO}, 3_600, id="not tried yet"),
        pytest.param({"state": "connected", "state_at": HOUR_AGO}, 0, id="it has never sent anything"),
        pytest.param(
            {"state": "connected", "last_frame_at": HOUR_AGO, "caught_up_at": HOUR_AGO, "last_cts": HOUR_AGO},
            0,
            id="caught up, and silent for an hour",
        ),
        pytest.param(
            {
                "state": "connected",
                "last_frame_at": NOW,
                "caught_up_at": HOUR_AGO,
                "last_cts": "now() - interval '2 h'",
            },
            7_200,
            id="frames came after it had caught up",
        ),
        pytest.param(
            {"state": "connected", "last_frame_at": NOW, "last_cts": "now() - interval '9 d'"},
            9 * 86_400,
            id="read from the beginning",
        ),
        pytest.param(
            {"state": "connected", "last_frame_at": NOW, "last_cts": "now() + interval '4 min'"},
            0,
            id="its clock is ahead",
        ),
        pytest.param(
            {"state": "waiting", "state_at": HOUR_AGO, "last_frame_at": NOW, "caught_up_at": NOW, "reason": "refused"},
            3_600,
            id="without a connection for an hour",
        ),
    ],
)
def test_how_far_behind_a_labeler_is(database: Database, columns: dict[str, str], lag: float) -> None:
    add_labeler(database.url, A, **columns)
    with database.connect("reader") as connection:
        (found,) = labeler_reports(connection)
    assert (found.silent_seconds is None) == ("last_frame_at" not in columns)
    assert (found.newest_seconds is None) == ("last_cts" not in columns)
    assert found.lag_seconds == pytest.approx(lag, abs=30) and found.is_wanted and found.name == A


def test_a_labeler_is_reported_with_what_is_in_effect_and_what_is_missing(database: Database) -> None:
    for did in (A, B):
        add_labeler(database.url, did, in_effect=4, labels=9, rejected_by_kind=json.dumps({"label-signature": 2}))
    rows(database.url, "INSERT INTO bsky.actor (did, handle, \"indexedAt\") VALUES (%s, 'a.test', '')", A)
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp) "
        "SELECT %s, 'at://x/' || n, '', 'spam', neg, '2025-01-01T00:00:00.000Z', "
        "to_char(now() AT TIME ZONE 'UTC' + days * interval '1 d', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') "
        "FROM (VALUES (1, false, -1), (2, false, -400), (3, false, 1), (4, true, -1), (5, false, NULL)) "
        "v (n, neg, days)",
        A,
    )
    rows(
        database.url,
        "INSERT INTO pipeline.gap (kind, did, from_text, detected_at, resolved_at) VALUES "
        "('labels', %s, '5', now() - interval '3 d', NULL), ('labels', %s, '7', now() - interval '3 d', now())",
        A,
        B,
    )
    with database.connect("reader") as connection:
        a, b = labeler_reports(connection)
        status = label_status(connection)
    assert (a.in_effect, b.in_effect) == (2, 4) and a.name == f"{A} (a.test)"
    assert a.gap_seconds == pytest.approx(259_200, abs=30) and b.gap_seconds is None, "a closed gap is none"
    assert a.labels == 9 and a.rejected_by_kind == {"label-signature": 2}
    assert status.in_effect == 6 and status.labelers == {"new": 2}


def test_expired_labels_are_counted_in_an_index_alone(database: Database) -> None:
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {sections('report/labels.sql')['labelers']}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Only Scan using label_exp_idx" in plan and "Scan using label_in_effect" not in plan


def test_whether_a_label_process_runs_shows_in_its_lock(database: Database) -> None:
    def held() -> tuple[bool, bool]:
        with database.connect("reader") as connection:
            return is_lock_held(connection, LOCK), is_lock_held(connection, "another lock")

    assert held() == (False, False)
    with session_lock(database, LOCK, taken="it is taken"):
        assert held() == (True, False)
    assert held() == (False, False)


def test_labels_rejected_today_are_counted_also_where_they_are_not_kept(database: Database) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.dead_letter_day (kind, day, letters, bytes) SELECT kind, "
        "(now() AT TIME ZONE 'UTC')::date - age, 3, 900 "
        "FROM unnest(ARRAY['label-signature', 'label-source', 'lexicon']) kind, generate_series(0, 1) age",
    )
    rows(
        database.url,
        "INSERT INTO pipeline.dead_letter_overflow (kind, minute, count) VALUES ('label-source', now(), 40), "
        "('label-source', now() - interval '25 h', 500)",
    )
    with database.connect("reader") as connection:
        assert rejected_today(connection) == {"label-signature": 3, "label-source": 43}


def test_status_says_how_the_labelers_are(database: Database) -> None:
    def lines() -> list[str]:
        with database.connect("reader") as connection:
            status = read_status(connection, database.url)
        assert json.loads(json.dumps(status.as_json()))["labels"]["labelers"] == status.labels.labelers
        return [line for line in status.lines() if line.startswith(("Labels", "  parked"))]

    assert lines() == ["Labels        no labelers are read; 0 in effect"]
    add_labeler(database.url, A, state="connected", in_effect=1_200, last_frame_at=NOW, last_cts=HOUR_AGO)
    for n in range(7):
        add_labeler(database.url, f"{B}{n}", state="parked", reason="its DID document has no key for labels")
    add_labeler(database.url, "did:plc:former", is_wanted=False, state="connected", in_effect=34)
    first, *parked = lines()
    assert first == (
        "Labels        labelers: connected 1, parked 7; 1,234 in effect; no label process runs; rejected today: none"
    )
    assert parked[0] == f"  parked      {B}0: its DID document has no key for labels" and len(parked) == 6
    assert parked[-1] == "  parked      and 2 more"
    with session_lock(database, LOCK, taken="it is taken"):
        assert f"1,234 in effect; lag 60 min ({A}); rejected today: none" in lines()[0]
