"""A relay under another spelling of its URL is the same relay: its cursor, its gaps, its batches."""

from __future__ import annotations

import pytest

from appview_pipeline.addresses import basic_authorization
from appview_pipeline.errors import OperatorError
from appview_pipeline.shards import Shard
from appview_pipeline.store import migrate, session_lock
from appview_pipeline.store.cursors import name_relays, open_cursor
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.consumers import Consumer, until
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import one, rows

NAME = "wss://relay.example"


def cursors(database: Database) -> list[tuple[str, str, int]]:
    return rows(database.url, "SELECT relay, shard, seq FROM pipeline.cursor ORDER BY 1, 2")


def store(database: Database, relay: str, seq: int, age: str = "0 s", shard: str = "0/1") -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.cursor VALUES (%s, %s, %s, now() - %s::interval)",
        relay, shard, seq, age,
    )  # fmt: skip


def opened(database: Database, shard: Shard | None = None) -> int | None:
    with database.connect("writer") as connection:
        return open_cursor(connection, NAME, shard or Shard(0, 1), None).seq


@pytest.mark.parametrize(
    "spelling",
    [
        "wss://Relay.Example",
        "wss://relay.example:443",
        "wss://relay.example.",
        "wss://user:hush@relay.example",
        "wss://Relay.Example:443/xrpc/com.atproto.sync.subscribeRepos",
        "https://relay.example",
    ],
)
def test_a_cursor_under_another_spelling_is_taken_over(database: Database, spelling: str) -> None:
    store(database, spelling, 1234)
    store(database, "wss://other.example", 5)
    store(database, "a file", 6)
    at = one(database.url, "SELECT updated_at FROM pipeline.cursor WHERE relay = %s", spelling)
    assert opened(database) == 1234
    assert cursors(database) == [("a file", "0/1", 6), ("wss://other.example", "0/1", 5), (NAME, "0/1", 1234)]
    assert one(database.url, "SELECT updated_at FROM pipeline.cursor WHERE relay = %s", NAME) == at
    assert opened(database) == 1234
    assert one(database.url, "SELECT count(*) FROM pipeline.gap") == 0


def test_of_several_cursors_the_last_moved_is_kept_and_what_lies_between_is_a_gap(database: Database) -> None:
    store(database, "wss://RELAY.example", 100, "3 days")
    store(database, NAME, 700, "1 minute")
    store(database, "wss://relay.example:443", 900, "2 days")
    store(database, "wss://relay.Example", 55, "2 days", "1/2")
    assert opened(database) == 700
    assert [(relay, shard, seq) for relay, shard, seq in cursors(database) if shard == "0/1"] == [(NAME, "0/1", 700)]
    gaps = rows(database.url, "SELECT kind, relay, from_text, to_text, did FROM pipeline.gap")
    assert gaps == [("sequence", NAME, "100", "700", None)]


def test_a_stale_cursor_under_the_name_gives_way_to_one_that_moved_later(database: Database) -> None:
    store(database, NAME, 100, "3 days")
    store(database, "wss://Relay.example", 900)
    assert opened(database) == 900
    assert rows(database.url, "SELECT from_text, to_text FROM pipeline.gap") == [("100", "900")]


def test_layouts_of_shards_are_followed_across_spellings(database: Database) -> None:
    store(database, "wss://Relay.example", 900)
    assert opened(database, Shard(0, 2)) == 900
    assert opened(database, Shard(1, 2)) == 900
    assert cursors(database) == [(NAME, "0/2", 900), (NAME, "1/2", 900)]


def test_nothing_stored_keeps_a_password(database: Database) -> None:
    """As versions before stored it, under a name that the operator uses no more."""
    old = "wss://user:hush@Old.example"
    store(database, old, 7)
    rows(database.url, "INSERT INTO pipeline.batch (source, last_seq, events, rejected) VALUES (%s, 7, 1, 0)", old)
    gap = "INSERT INTO pipeline.gap (kind, relay, from_text, to_text) VALUES ('sequence', %s, '1', '5')"
    for relay in (old, "wss://old.example"):
        rows(database.url, gap, relay)
    rows(
        database.url,
        "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, form) "
        "VALUES ('a', %s, 'frame-size', %s, 'frame')",
        old, f"{old} sent a message of more than 5 bytes",
    )  # fmt: skip
    assert migrate.upgrade(database.url) == migrate.head()
    with database.connect("writer") as connection:
        assert name_relays(connection) == 0
    name = "wss://old.example"
    assert cursors(database) == [(name, "0/1", 7)]
    assert one(database.url, "SELECT source FROM pipeline.batch") == name
    assert rows(database.url, "SELECT relay, from_text FROM pipeline.gap") == [(name, "1")]
    letters = rows(database.url, "SELECT source, reason FROM pipeline.dead_letter")
    assert letters == [(name, f"{name} sent a message of more than 5 bytes")]


def test_a_standby_is_no_place_for_a_stream(database: Database) -> None:
    class Standby:
        """Stands for a connection to a server in recovery."""

        def cursor(self) -> Standby:
            return self

        def __enter__(self) -> Standby:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def execute(self, statement: str) -> None:
            assert "pg_is_in_recovery" in statement

        def fetchone(self) -> tuple[bool]:
            return (True,)

    with pytest.raises(OperatorError, match=r"is a standby.*target_session_attrs=read-write"):
        session_lock.refuse_standby(Standby(), database)  # type: ignore[arg-type]


def test_the_consumer_goes_on_under_the_name(database: Database) -> None:
    """From `LOCALHOST` at seq 1, with a password that the relay asks for; nothing shows it."""
    ann = Person(Stream(), "ann")
    with Relay([ann.commit(post("a", "x")), ann.commit(post("b", "x"))]) as relay:
        relay.faults.authorization = basic_authorization("user:hu@sh")
        name = f"ws://localhost:{relay.port}"
        store(database, f"ws://user:other@LOCALHOST:{relay.port}", 1)
        consumer = Consumer(database.url, f"ws://user:hu%40sh@LocalHost.:{relay.port}/")
        try:
            until(lambda: cursors(database) == [(name, "0/1", 2)], consumer)
            consumer.end()
        finally:
            consumer.clean_up()
        assert relay.cursors == [1]
        assert one(database.url, "SELECT source FROM pipeline.batch") == name
        assert "hu@sh" not in consumer.said and "hu%40sh" not in consumer.said
        assert basic_authorization("user:hu@sh") not in consumer.said
        # A wrong one is refused; the relay's answer repeats what it was sent.
        wrong = Consumer(database.url, f"ws://user:wrong@localhost:{relay.port}")
        try:
            until(lambda: "HTTP 401" in wrong.said, wrong)
        finally:
            wrong.clean_up()
        assert "wrong" not in wrong.said and basic_authorization("user:wrong") not in wrong.said
