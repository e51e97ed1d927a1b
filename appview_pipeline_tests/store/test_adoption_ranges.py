"""The ranges of an adoption: no account is in two of them, and each moves from where it is."""

from __future__ import annotations

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.store import adoption_ranges
from appview_pipeline.store.adoption_ranges import Range, end_ranges, make_ranges, move_range, open_ranges
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import rows

DIDS = ["did:plc:a", "did:plc:a-b", "did:plc:a.b", "did:plc:b", "did:web:c", "did:web:c%3A80", "did:web:c.d"]


def made(database: Database) -> list[Range]:
    rows(database.url, "INSERT INTO pipeline.repo (did) SELECT unnest(%s::text[])", DIDS)
    rows(
        database.url,
        """INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
        SELECT 'at://' || did || '/app.bsky.feed.post/' || n, 'c', did, '{}', 'x', 'x'
        FROM pipeline.repo, generate_series(1, 9) n""",
    )
    rows(database.url, "ANALYZE bsky.record")
    with database.connect("maintenance") as connection:
        make_ranges(connection, "records", ("one", "two"))
        make_ranges(connection, "records", ("one", "two"))
        return open_ranges(connection, "records")


def test_they_cover_all_and_divide_no_account(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption_ranges, "RECORDS_OF_RANGE", 10)
    found = [one for one in made(database) if one.part == "one"]
    assert len(found) > 3 and found[0].after == "" and found[-1].until is None
    assert [one.until for one in found[:-1]] == [one.after for one in found[1:]]
    for did in DIDS:
        uris = [f"at://{did}/{rest}" for rest in ("a", "app.bsky.feed.post/1", "zz")]
        assert (
            len({one for one in found for uri in uris if one.after < uri and (not one.until or uri <= one.until)}) == 1
        )


def test_a_small_database_has_one(database: Database) -> None:
    assert made(database) == [Range("records", part, "", None, "") for part in ("one", "two")]


def test_only_one_process_moves_a_range(database: Database) -> None:
    first, second = made(database)
    with database.connect("maintenance") as connection, connection.cursor() as cursor:
        move_range(cursor, first, "", "at://did:plc:a/x", {"records": 3, "nothing": 0})
        with pytest.raises(OperatorError, match="was still at work"):
            move_range(cursor, first, "", "at://did:plc:a/w", {"records": 3})
        assert [one.position for one in open_ranges(connection, "records")] == ["at://did:plc:a/x", ""]
        move_range(cursor, first, "at://did:plc:a/x", None, {"records": 4})
        assert open_ranges(connection, "records") == [second]
        with pytest.raises(OperatorError, match="was still at work"):
            move_range(cursor, first, "at://did:plc:a/x", None, {"records": 4})
        assert end_ranges(cursor, "records") == {"records": 7}
        assert open_ranges(connection, "records") == []
