"""Private state survives all that the pipeline does, row by row: indexing, fetching, repairs, removals and sweeps.

Users and moderators write between the steps, as they do while the AppView serves. After each step every row of theirs
is where it was, written by the same transaction. Two marks go with their rows: the age assurance of an account that is
removed, and the `tags` of a record that is deleted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import AccountState, Change
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.retention import apply_retention
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate, sql
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.sweeps import BY_NAME
from appview_pipeline_tests.conformance.reference.check import scratch_database
from appview_pipeline_tests.properties.delivery import network_changes
from appview_pipeline_tests.properties.exported_networks import repository_of
from appview_pipeline_tests.properties.networks import NAMES, Network, did_of
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.exports import compared
from appview_pipeline_tests.support.private_state import PRIVATE_TABLES, Note, note, rows_of, write_private_state
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.sweeping import sweep

quick = settings(max_examples=5, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate))
NOW = "2026-06-15T15:06:40.000Z"


class Work:
    """The pipeline's work on one network, and acts of users between its steps."""

    def __init__(self, index: Rerun, network: Network, seed: int) -> None:
        self.index, self.network, self.rng = index, network, Random(seed)
        self.changes = network_changes(network)
        self.settings = Settings(database_url=index.database.url, retention_days=1)
        self.at, self.seq = 0, 0
        self.dids = [did_of(number) for number in range(len(NAMES))]
        self.uris = sorted({f"at://{it.did}/{op.collection}/{op.rkey}" for it in network.commits for op in it.ops})

    def write(self, *changes: Change) -> None:
        Writer(self.index.database, self.settings, "test").write(list(changes), time.time())

    def somebody(self) -> str:
        return self.rng.choice(self.dids)

    def commits(self) -> None:
        until = min(len(self.changes), self.at + self.rng.randrange(1, 12))
        if self.at < until:
            self.write(*self.changes[self.at : until])
        self.at = until

    def replay(self) -> None:
        if self.at:
            self.write(*self.changes[: self.at])

    def fetch(self) -> None:
        did = self.somebody()
        repository = repository_of(self.network, did, len(self.changes))
        excluded = self.index.rows("SELECT did FROM pipeline.repo WHERE did = %s AND excluded", did)
        if repository is not None and not excluded:
            self.write(*compared(self.index.database, repository).changes(3))

    def account(self, active: bool, status: str | None) -> None:
        self.seq += 1
        state = AccountState(self.somebody(), active, status, NOW, self.seq)
        self.write(Change(size=0, account=state, time=NOW, is_event=True))

    def deactivated(self) -> None:
        self.account(False, "deactivated")

    def active(self) -> None:
        self.account(True, None)

    def remove(self) -> None:
        self.index.run(
            f"INSERT INTO pipeline.removal (did, reason) VALUES ('{self.somebody()}', 'deleted') ON CONFLICT DO NOTHING"
        )
        remove_accounts(self.settings, self.index.database, chunk=self.rng.choice([1, 1_000]))

    def purge(self) -> None:
        self.index.run(f"SELECT pipeline.forbid_data_collection('{self.somebody()}', purge => true)")
        remove_accounts(self.settings, self.index.database)

    def allow(self) -> None:
        self.index.run(f"SELECT pipeline.allow_data_collection('{self.somebody()}')")

    def rerun(self) -> None:
        self.index.rerun(orphans=None)

    def recount(self) -> None:
        for table in TABLES:
            assert recount(self.index.database, table, rewrite=True).differing == 0

    def retention(self) -> None:
        apply_retention(self.settings, self.index.database)

    def sweeps(self) -> None:
        for name in BY_NAME:
            sweep(self.index.database, name)


STEPS: tuple[Callable[[Work], None], ...] = (
    *(Work.commits, Work.commits, Work.commits, Work.replay, Work.fetch, Work.deactivated, Work.active, Work.remove),
    *(Work.purge, Work.allow, Work.rerun, Work.recount, Work.retention, Work.sweeps),
)


def lost(before: Note, after: Note, step: Callable[[Work], None]) -> list[str]:
    """What a step of the pipeline has changed and must not, in words."""
    may_go = {"tags"} | ({"age assurance"} if step in (Work.remove, Work.purge) else set())
    found = [
        f"{table}: {sorted({*before.rows[table]} ^ {*after.rows[table]})}"
        for table in PRIVATE_TABLES
        if before.rows[table] != after.rows[table]
    ]
    for kind, marks in before.marks.items():
        now = after.marks[kind]
        gone = {subject for subject in marks if subject not in now and kind not in may_go}
        other = {subject for subject in now if marks.get(subject) != now[subject]}
        found += [f"{kind}: {subject}" for subject in sorted(gone | other)]
    return found + [f"bookmarks of {uri}: {count}" for uri, count in after.uncounted]


ANY_STEPS = st.lists(st.sampled_from(STEPS), min_size=4, max_size=16)


@quick
@given(network=networks(mutes=False, subscriptions=False), steps=ANY_STEPS, seed=st.integers(0, 2**16))
def test_private_state_survives_any_work(
    rerun_index: Rerun, network: Network, steps: list[Callable[[Work], None]], seed: int
) -> None:
    rerun_index.run("DELETE FROM pipeline.removal", "DELETE FROM pipeline.actor_setting")
    rerun_index.clean()
    work = Work(rerun_index, network, seed)
    work.commits()
    said = [repr(network)]
    for step in steps:
        for _ in range(work.rng.randrange(6)):
            write_private_state(rerun_index.connection, work.rng, work.dids, work.uris or ["at://x/y/z"])
        before = note(rerun_index.connection)
        step(work)
        said.append(step.__name__)
        found = lost(before, note(rerun_index.connection), step)
        assert not found, "\n".join([*said, *found[:10]])


def test_migrations_leave_private_state_alone(server: EmbeddedPostgres) -> None:
    """All of them, on a database of the first version in which the AppView's users have been at work."""
    with scratch_database(server.url("postgres")) as url, connect(url) as connection:
        migrate.upgrade(url, to="0001")
        rng = Random(1)
        for _ in range(200):
            write_private_state(
                connection, rng, ["did:plc:a", "did:plc:b"], ["at://did:plc:a/x/y", "at://did:plc:b/x/y"]
            )
        before = rows_of(connection)
        connection.commit()
        assert sum(map(bool, before.values())) >= 13
        migrate.upgrade(url)
        assert rows_of(connection) == before


WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|TRUNCATE)\s+(?:ONLY\s+)?bsky\.\"?(\w+)")


def test_no_statement_writes_a_private_table() -> None:
    """Nor does any migration but the one that makes the tables."""
    names = {str(path.relative_to(CHECKOUT / "sql")) for path in (CHECKOUT / "sql").rglob("*.sql")}
    names.remove("schema/0001_reference_tables.sql")
    written = {name: set(WRITES.findall(re.sub(r"--[^\n]*", "", sql.read(name)))) for name in names}
    assert {name: tables & {*PRIVATE_TABLES} for name, tables in written.items() if tables & {*PRIVATE_TABLES}} == {}
    assert "post" in written["apply/post.sql"] and "actor" in written["account/remove.sql"]


def test_every_table_is_private_or_written(rerun_index: Rerun) -> None:
    tables = set(rerun_index.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'bsky'"))
    texts = "\n".join(sql.read(str(path.relative_to(CHECKOUT / "sql"))) for path in (CHECKOUT / "sql").rglob("*.sql"))
    written = {table for table in tables if re.search(rf"bsky\.\"?{table}\"?\b", texts)}
    assert tables - set(PRIVATE_TABLES) <= written
    assert set(PRIVATE_TABLES) <= tables
