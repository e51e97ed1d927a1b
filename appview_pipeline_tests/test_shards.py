"""Shards: which frames are whose, and where each goes on when their number changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import libipld
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.live.stream_decoder import own_frames
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.frames import decode_frame
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline.settings import Settings
from appview_pipeline.shards import WHOLE, Shard, StoredCursor, number_of, start_of
from appview_pipeline.store.cursors import open_cursor
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.properties.delivery import Index, fresh_index
from appview_pipeline_tests.simulated_network.relay import info_frame
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import Fresh, one, rows


def layout(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(count)]


quick = settings(max_examples=25, suppress_health_check=tuple(HealthCheck))

RELAY = "wss://relay.example"


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    with fresh_index(server, template_database) as found:
        yield found


# --- which frames are whose ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("did", "number"),
    [
        ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", 161369769),
        ("did:plc:z72i7hdynmk6r22z27h6tvur", 4122311252),
        ("did:web:example.com", 1042500819),
    ],
)
def test_a_repositorys_number_never_changes(database_url: str, did: str, number: int) -> None:
    """Stored cursors depend on it. PostgreSQL can compute it too."""
    assert number_of(did.encode()) == number
    in_sql = "('x' || encode(substr(sha256(convert_to(%s, 'UTF8')), 1, 4), 'hex'))::bit(32)::bigint"
    assert one(database_url, f"SELECT {in_sql}", did) == number
    for count in (1, 2, 3, 64):
        assert [shard.index for shard in layout(count) if shard.takes(did.encode())] == [number % count]


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "2/2", "-1/2", "0/0", "0/65", "a/b", "0/2/3", "٠/٢", "0.0/1"])
def test_what_is_no_shard_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="must be i/n with i from 0 to n-1"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert Shard.parse("3/64") == Shard(3, 64) and str(Shard(3, 64)) == "3/64"
    assert Settings().shard == Shard.parse("0/1") == WHOLE


PLAIN = Person(Stream(), "ann").commit(post("a", "x"))


def _strange_frames() -> dict[bytes, bytes | None]:
    """Frames that are no ordinary events, and the DID that each is about."""
    ann = Person(Stream(), "ann")
    plain = ann.commit(post("a", "x"))
    web = b"did:web:a.b"
    body = {"seq": 1, "repo": web.decode(), "time": "2025-06-15T15:06:40.000Z"}
    header = bytes(libipld.encode_dag_cbor({"op": 1, "t": "#commit"}))
    found: dict[bytes, bytes | None] = {
        b"": None,
        b"\x00damaged": None,
        plain[:20]: None,
        plain[:-1]: ann.did.encode(),  # all there is to go by, whatever becomes of the frame
        header + bytes(libipld.encode_dag_cbor(body)): web,
        header + bytes(libipld.encode_dag_cbor({"seq": 2})): None,
        header + bytes(libipld.encode_dag_cbor({"seq": 2, "repo": ""})): None,
        header + bytes(libipld.encode_dag_cbor({"seq": 2, "repo": 7})): None,
        header
        + bytes(libipld.encode_dag_cbor({"seq": 2, "ops": [{"path": "a/drepox"}], "repo": "did:x:y"})): b"did:x:y",
        info_frame("OutdatedCursor", "old"): None,
    }
    return found


def test_every_frame_is_one_shards_and_that_of_its_did(fresh: Fresh) -> None:
    frames = [*busy_frames(300), *_strange_frames()]
    for frame, did in _strange_frames().items():
        assert peek_did(frame) == did, frame
    for frame in frames[:300]:
        event = decode_frame(frame)
        did = getattr(event, "repo", None) or getattr(event, "did", None)
        assert did is not None and peek_did(frame) == did.encode()
    for count in (1, 2, 3, 4):
        parts = [own_frames(frames, shard) for shard in layout(count)]
        assert sorted(frame for part in parts for frame in part) == sorted(frames)
        assert all(parts[0].count(frame) == 1 for frame, did in _strange_frames().items() if did is None)


@settings(quick, max_examples=100)
@given(junk=st.binary(max_size=80), cut=st.integers(0, 400), at=st.integers(0, 300))
def test_no_frame_is_too_strange_for_its_did_to_be_looked_for(junk: bytes, cut: int, at: int) -> None:
    frame = PLAIN
    for strange in (junk, frame[:cut], frame[:at] + junk + frame[at + len(junk) :], b"\xa2atg#commitbop\x01" + junk):
        peek_did(strange)
        with contextlib.suppress(FrameError):
            decode_frame(strange)


# --- where a shard goes on -------------------------------------------------------------------------------------------


def stored(*cursors: tuple[str, int]) -> list[StoredCursor]:
    """Cursors that moved one after the other."""
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return [StoredCursor(Shard.parse(it), seq, began + timedelta(minutes=n)) for n, (it, seq) in enumerate(cursors)]


@pytest.mark.parametrize(
    ("shard", "cursors", "otherwise", "start_after"),
    [
        ("0/1", [], 7, None),
        ("0/1", [("0/1", 50)], 7, 50),
        ("1/2", [("0/1", 50)], 7, 50),  # one divided
        ("0/1", [("0/2", 40), ("1/2", 50)], 7, 40),  # two joined: the one behind
        ("1/4", [("0/2", 40), ("1/2", 50)], 7, 50),  # only the one that had it
        ("2/4", [("0/2", 40), ("1/2", 50)], 7, 40),
        ("2/3", [("0/2", 40), ("1/2", 50)], 7, 40),  # both had some of it
        ("1/2", [("0/1", 10), ("0/2", 40), ("1/2", 50)], 7, 50),  # its own
        ("0/2", [("0/2", 3), ("1/2", 4), ("0/1", 90)], 7, 90),  # its own from long ago, everything taken up since
        ("0/3", [("0/2", 3), ("1/2", 4), ("0/1", 90)], 7, 90),  # others' from long ago
        (
            "0/1",
            [("0/1", 900), ("0/2", 40), ("1/2", 50)],
            7,
            40,
        ),  # a relay that starts its numbers again: 900 is ignored
        ("0/2", [("0/1", 90), ("0/3", 95), ("1/3", 97)], 7, 90),  # a layout that never was complete
        ("0/1", [("0/2", 40)], 7, 7),  # nobody ever took 1/2: from where the settings say
        ("0/1", [("0/2", 40)], None, 40),  # or from the newest event on, which is later
        ("1/2", [("0/2", 40)], 7, None),
    ],
)
def test_where_a_shard_starts(
    shard: str, cursors: list[tuple[str, int]], otherwise: int | None, start_after: int | None
) -> None:
    for known in (stored(*cursors), list(reversed(stored(*cursors)))):
        assert start_of(Shard.parse(shard), known, otherwise) == start_after


def test_a_start_from_very_many_layouts_is_a_safe_one() -> None:
    cursors = stored(*((f"0/{count}", count) for count in (64, 63, 61, 59, 57)), ("0/1", 999))
    assert start_of(Shard(0, 2), cursors) == 57


_steps = st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 9), st.booleans())


@quick
@given(steps=st.lists(_steps, min_size=1, max_size=40))
@example(
    steps=[(1, 0, 5, False), (2, 0, 5, False), (2, 1, 9, False), (1, 0, 2, True), (2, 1, 3, False), (2, 0, 1, True)]
)
def test_whatever_the_layouts_nothing_is_left_out(index: Index, steps: list[tuple[int, int, int, bool]]) -> None:
    """Layouts come and go, complete or not, and stop anywhere: every event before the start of a shard was applied."""
    index.clean()
    applied: dict[int, int] = {}  # up to where, by repository, 60 = lcm(1..6) of them: one of each kind
    head = 0
    for count, number, moved, complete in steps:
        for i in range(count) if complete else (number % count,):
            shard = Shard(i, count)
            head += moved
            seq = open_cursor(index.connection, RELAY, shard, None).seq
            seq = head if seq is None else seq  # nobody was there before: at the newest event
            for part in range(i, 60, count):
                assert applied.get(part, seq) >= seq, f"{shard} left out events before {seq}"
                applied[part] = max(applied.get(part, 0), seq + moved)
            head = max(head, seq + moved)
            with index.connection.cursor() as sql:
                sql.execute(
                    "INSERT INTO pipeline.cursor VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT (relay, shard) "
                    "DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at",
                    (RELAY, str(shard), seq + moved),
                )
            index.connection.commit()
        if complete:
            # A shard that began at the newest event has its cursor from its first batch on: the next start sees it.
            open_cursor(index.connection, RELAY, Shard(count - 1, count), None)
            left = rows(index.database.url, "SELECT DISTINCT split_part(shard, '/', 2)::int FROM pipeline.cursor")
            assert left == [(count,)], "what former layouts left is gone once a layout has started as a whole"


def test_a_cursor_from_long_ago_holds_nobody_back(index: Index) -> None:
    """A shard starts where others have got since. When all shards have started, the cursors of those others go."""
    index.clean()
    for age, (shard, seq) in enumerate(reversed((("0/2", 3), ("1/2", 4), ("0/3", 95), ("1/3", 97), ("2/3", 96))), 1):
        rows(
            index.database.url,
            "INSERT INTO pipeline.cursor VALUES (%s, %s, %s, now() - %s * interval '1 minute')", RELAY, shard, seq, age,
        )  # fmt: skip
    first = open_cursor(index.connection, RELAY, Shard(0, 2), 0)
    assert first.seq == 95 and not first.closed and set(first.taken_from) == {"0/3", "1/3", "2/3"}
    second = open_cursor(index.connection, RELAY, Shard(1, 2), 0)
    assert second.seq == 95 and set(second.closed) == {"0/3", "1/3", "2/3"}
    assert open_cursor(index.connection, RELAY, Shard(0, 2), 0).seq == 95
    assert rows(index.database.url, "SELECT shard, seq FROM pipeline.cursor ORDER BY 1") == [("0/2", 95), ("1/2", 95)]


def test_layouts_exclude_one_another_and_shards_do_not(fresh: Fresh) -> None:
    with fresh() as database:
        with (
            stream_lock(database, RELAY, "0/2") as first,
            stream_lock(database, RELAY, "1/2") as second,
            stream_lock(database, RELAY, "0/1") as other,
        ):
            first.keep_to_layout(RELAY, Shard(0, 2), patience=0)
            second.keep_to_layout(RELAY, Shard(1, 2), patience=0)
            with pytest.raises(
                OperatorError, match=r"APPVIEW_SHARD=i/2\) are at work on wss://relay.example: stop them"
            ):
                other.keep_to_layout(RELAY, WHOLE, patience=0.3)
            other.keep_to_layout("wss://another.example", WHOLE, patience=0)
        with stream_lock(database, RELAY, "0/1") as other:
            other.keep_to_layout(RELAY, WHOLE, patience=5)
