"""Delivers networks to a database, one example after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import Change
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.properties.arrivals import Arrival
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.changes import change_of
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.states import Cleaner, State, dump
from appview_pipeline_tests.support.tables import fresh_database

Deliver = Callable[[Database, Sequence[Sequence[Change]]], None]


@dataclass
class Index:
    """A database that is empty at the beginning of every example."""

    database: Database
    connection: Connection
    clean: Cleaner

    def after(self, network: Network, arrival: Arrival, deliver: Deliver = feed) -> State:
        """The tables after a network's commits have arrived."""
        self.feed(network, arrival, deliver)
        return dump(self.connection)

    def feed(self, network: Network, arrival: Arrival, deliver: Deliver = feed) -> None:
        """Empties the database, then writes a network's commits as they arrive."""
        self.clean()
        with self.connection.cursor() as cursor:
            for root, who in network.thread_mutes:
                cursor.execute("INSERT INTO bsky.thread_mute VALUES (%s, %s, '2025-01-01T00:00:00.000Z')", (root, who))
            for number, it in enumerate(network.subscriptions):
                cursor.execute(
                    'INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply) '
                    "VALUES (%s, %s, %s, '2025-01-01T00:00:00.000Z', %s, %s)",
                    (it.creator, it.subject, str(number), it.post, it.reply),
                )
        self.connection.commit()
        changes = network_changes(network)
        deliver(self.database, [[changes[number] for number in batch] for batch in arrival.batches])

    def find_deadlocks_after(self, milliseconds: int) -> None:
        """Makes PostgreSQL look for deadlocks after `milliseconds`, not after a second, on new connections."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            ((name,),) = cursor.fetchall()
            cursor.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '{milliseconds}ms'")
        self.connection.commit()
        self.database.engine.dispose()


@contextmanager
def fresh_index(server: EmbeddedPostgres, template: str) -> Iterator[Index]:
    """An index in a database of its own."""
    with (
        fresh_database(server, template) as database,
        connect(database.url) as connection,
    ):
        yield Index(database, connection, Cleaner(connection))


def network_changes(network: Network) -> list[Change]:
    """The commits as changes; those of a repository are a chain. Nothing but gates is refused."""
    newest: dict[str, str] = {}
    changes = []
    for number, commit in enumerate(network.commits):
        change = change_of(commit, number + 1, newest.get(commit.did))
        assert all("gate" in (letter.path or "") for letter in change.dead_letters), change.dead_letters
        newest[commit.did] = commit.rev
        changes.append(change)
    return changes
