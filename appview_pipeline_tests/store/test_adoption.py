"""How an adoption goes on, and the revs that it gives to records (docs/serve.md)."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.protocol.syntax import tid_after, tid_from_micros
from appview_pipeline.store.adoption import Options, end, make_state, read_adoption
from appview_pipeline.store.adoption_steps import prepare_session
from appview_pipeline.store.database import Database

TIMES = (
    "2022-11-17T00:35:16.391Z",
    "2024-02-29T23:59:59.999999Z",
    "2025-12-31T12:00:00Z",
    "2026-01-30T00:00:00.5Z",
    "1970-01-01T00:00:00.000Z",
)
NO_TIMES = ("", "x", "2024-00-10T00:00:00Z", "2024-01-00T00:00:00Z", "2024-01-10T25:00:00Z", "1815-01-10T00:00:00Z")


def test_it_goes_on_with_the_options_that_it_began_with(database: Database) -> None:
    with database.connect("maintenance") as connection:
        make_state(connection, "theirs", Options(77, compare=True))
        make_state(connection, "other", Options())
        found = read_adoption(connection)
        assert found is not None
        assert (found.from_schema, found.cursor, found.compare, found.from_keys) == ("theirs", 77, True, False)
        found.check_options(None, Options())
        found.check_options("theirs", Options(77, compare=True))
        for schema, other in (("bsky", Options()), (None, Options(77)), (None, Options(77, True, True))):
            with pytest.raises(OperatorError, match="schema theirs began with --cursor 77 --compare: give no options"):
                found.check_options(schema, other)
        with connection.cursor() as cursor:
            end(cursor)
        connection.commit()
        again = make_state(connection, "bsky", Options(from_keys=True))
        assert (again.from_schema, again.cursor, again.compare, again.from_keys) == ("bsky", None, False, True)


def test_times_of_events_become_revs(database: Database) -> None:
    with database.connect("maintenance") as connection:
        prepare_session(connection)
        with connection.cursor() as cursor:
            for text in (*TIMES, *NO_TIMES, "2023-02-30T00:00:00Z"):
                cursor.execute(
                    "SELECT pg_temp.tid_of_text(%(t)s), pg_temp.tid_after(pg_temp.tid_of_text(%(t)s))", {"t": text}
                )
                made, after = cursor.fetchone() or (None, None)
                if text in TIMES:
                    moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace(".5+", ".500+"))
                    seconds = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
                    micros = (seconds.days * 86_400 + seconds.seconds) * 1_000_000 + seconds.microseconds
                    assert made == tid_from_micros(micros), text
                    assert after == tid_after(made)
                elif text in NO_TIMES:
                    assert made is None
                else:  # no day of that month; the reference stores it as it came
                    assert made == tid_from_micros(1_677_715_200_000_000)
            cursor.execute("SELECT pg_temp.tid_after('3kzzzzzzzzzzz')")
            assert cursor.fetchone() == (tid_after("3kzzzzzzzzzzz"),)
