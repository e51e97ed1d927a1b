"""Reruns: nothing changes where nothing is wrong, and what was broken by hand is right again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from appview_pipeline.ingest.rederive import DERIVED_COLLECTIONS, Rederived, rederive
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded import EmbeddedPostgres
from appview_pipeline_tests.networks import Arrival, Network, arrivals, networks
from appview_pipeline_tests.scenarios import Cleaner, differences, dump, feed
from appview_pipeline_tests.tables import fresh_database
from appview_pipeline_tests.test_order_independence import network_changes

quick = settings(max_examples=40, deadline=None, suppress_health_check=tuple(HealthCheck), print_blob=True)


@dataclass
class Index:
    """A database that starts every example empty."""

    database: Database
    connection: Connection
    clean: Cleaner

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.connection.commit()

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            found = cursor.fetchall()
        self.connection.commit()
        return [row[0] if len(row) == 1 else row for row in found]

    def rerun(self, **arguments: Any) -> Rederived:
        return rederive(self.database, DERIVED_COLLECTIONS, **arguments)

    def digest(self) -> dict[str, list[str]]:
        """Every row of schema bsky with its place and the transaction that wrote it, and what `pipeline` knows."""
        tables = self.rows(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'bsky' "
            "OR tablename IN ('version', 'tombstone', 'pending', 'dependency', 'dead_letter', 'gap', 'edited', 'silenced')"
        )
        return {
            table: self.rows(f"SELECT t.ctid::text || t.xmin::text || t::text FROM {table} t ORDER BY 1")
            for table in tables
        }

    def feed(self, network: Network, arrival: Arrival) -> None:
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
        feed(self.database, [[changes[number] for number in batch] for batch in arrival.batches])


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    with (
        fresh_database(server, template_database) as database,
        closing(psycopg2.connect(database.url.replace("+psycopg2", ""))) as connection,
    ):
        yield Index(database, connection, Cleaner(connection))


@quick
@given(data=st.data())
def test_nothing_changes_where_nothing_is_wrong(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, data.draw(st.sampled_from(["stream", "repository", "any"]))))
    index.feed(network, arrival)
    # Mutes and subscriptions of the past are not those of today.
    index.run("DELETE FROM bsky.thread_mute", "DELETE FROM bsky.activity_subscription")
    before, tables = index.digest(), dump(index.connection)
    found = index.rerun(chunk=data.draw(st.sampled_from([1, 3, 1_000])))
    assert found.changed == {}, f"{network!r}\n{arrival}\n{found}\n" + "\n".join(differences(dump(index.connection), tables))
    assert index.digest() == before
