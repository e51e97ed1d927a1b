"""Nothing stays missing: `python -m appview_pipeline_tests.properties.backfill_campaign` (docs/testing.md).

A network in which everything goes wrong (`troubled_network.py`), the whole pipeline as processes that are killed at
random moments, an outage that is longer than the relay's window. Then the network comes to rest, and without any manual
step the index must become what the network is: every repository is synchronized, no gap is open, the queue is empty,
`audit` finds no difference in any repository, and the counters are those of a recount.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

import click

from appview_pipeline.backfill.audit import audit
from appview_pipeline.backfill.fetch import Fetcher
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline.store.reports import aggregate_drift
from appview_pipeline_tests.properties.pipeline_processes import Processes
from appview_pipeline_tests.properties.troubled_network import TroubledNetwork, Troubles
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.tables import rows
from appview_pipeline_tests.support.waiting import wait_for

Say = Callable[[str], None]
LOOK_SECONDS = 0.25

OPEN = {
    "repositories not complete": "SELECT count(*) FROM pipeline.repo WHERE active AND NOT excluded "
    "AND sync_state <> 'synchronized' AND did = ANY(%(living)s)",
    "repositories not met": "SELECT cardinality(%(living)s::text[]) - count(*) FROM pipeline.repo "
    "WHERE did = ANY(%(living)s)",
    "gaps": "SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NULL",
    # An account that was deleted before it was met stays parked: it is looked up once in a while.
    "queued": "SELECT count(*) FROM pipeline.backfill_queue WHERE finished_at IS NULL "
    "AND NOT (parked_at IS NOT NULL AND did = ANY(%(deleted)s))",
    "unchecked commits": "SELECT count(*) FROM pipeline.unchecked_commit",
    "removals": "SELECT count(*) FROM pipeline.repo WHERE did = ANY(%(deleted)s) "
    "AND EXISTS (SELECT FROM bsky.record r WHERE r.did = repo.did)",
    "events": "SELECT %(newest)s - coalesce(max(seq), 0) FROM pipeline.cursor",
}
"""What must be none at the end."""

HASTEN = (
    "UPDATE pipeline.backfill_queue SET not_before = not_before - %(by)s, parked_at = parked_at - %(by)s "
    "WHERE finished_at IS NULL AND claimed_until IS NULL",
    "UPDATE pipeline.pds_host SET parked_until = parked_until - %(by)s, list_not_before = list_not_before - %(by)s",
    "UPDATE pipeline.relay_listing SET not_before = not_before - %(by)s",
    "UPDATE pipeline.identity SET wanted_at = wanted_at - %(by)s WHERE queue IS NOT NULL",
)
"""Lets pauses of the queue, of hosts and of resolution pass faster than time does."""
RELEASE = "UPDATE pipeline.backfill_queue SET claimed_until = NULL, not_before = now() WHERE claimed_until IS NOT NULL"
"""As if the time were over after which a killed process loses what it had taken."""


@dataclass(frozen=True)
class Plan:
    """`accounts` write for `seconds`, `rate` frames a second; `kills` of processes meanwhile, and a week without the
    consumer in the middle (`outage` frames; 0: none). `hurry`: how many times faster than time pauses pass; 1: as
    shipped. Each host works `calm` seconds in the mean, then fails for `failing`. `patience`: seconds that it has to
    come to rest.
    """

    accounts: int = 2_000
    kills: int = 10
    seconds: float = 120.0
    seed: int = 1
    rate: float = 100.0
    hosts: int = 5
    outage: int = 1_000
    hurry: float = 1.0
    calm: float = 10.0
    failing: float = 3.0
    patience: float = 3_600.0


@dataclass(frozen=True)
class Rest:
    """What was found when everything had come to rest. `drift`: counters that differ from a recount; `left`: records of
    deleted accounts."""

    seconds: float
    repositories: int
    records: int
    missing: int
    extra: int
    differing: int
    underived: int
    failed: dict[str, str]
    examples: list[Any]
    drift: int
    left: int
    gaps: Counter[str]
    resyncs: int

    @property
    def differences(self) -> int:
        return self.missing + self.extra + self.differing + self.underived + len(self.failed) + self.drift + self.left


def run(database: Database, plan: Plan, say: Say) -> Rest:
    """Runs the campaign on an empty, migrated database. Raises AssertionError when it does not come to rest."""
    rng = Random(f"campaign {plan.seed}")
    troubled = TroubledNetwork(
        plan.accounts, plan.seed, plan.hosts, Troubles(calm=plan.calm, length=plan.failing), bool(plan.outage)
    )
    network = troubled.network
    kills = sorted(rng.uniform(0.1, 0.98) * plan.seconds for _ in range(plan.kills))
    with network:
        environment = {
            **network.environment(),
            "APPVIEW_BACKFILL_DAYS": "-1",
            "APPVIEW_FETCH_SECONDS": "4",
            "APPVIEW_FETCH_READ_SECONDS": "2",
            "APPVIEW_FETCH_CONNECT_SECONDS": "2",
            "APPVIEW_VERIFY": "full",
        }
        with Processes(database.url, network.relay_url, environment) as processes, _Hastened(database, plan.hurry):
            troubled.advance(10, 0.0)
            wait_for(lambda: rows(database.url, "SELECT FROM pipeline.cursor"), explain=processes.last_words)
            troubled.outages.start()
            started, made, outage = time.monotonic(), 0, plan.outage
            while (elapsed := time.monotonic() - started) < plan.seconds:
                due = int(elapsed * plan.rate) - made
                troubled.advance(due, elapsed / plan.seconds)
                made += due
                if kills and elapsed >= kills[0]:
                    kills.pop(0)
                    _kill(processes, processes.kill_one(rng), database, plan)
                if outage and elapsed >= plan.seconds / 2:
                    processes.pause("consumer")
                    troubled.a_week_passes(outage)
                    outage = 0
                    processes.resume("consumer")
                processes.keep_running()
                time.sleep(0.05)
            newest = troubled.come_to_rest()
            say(troubled.report())
            rested = time.monotonic()
            _come_to_rest(database, processes, troubled, newest, plan, say)
            seconds = time.monotonic() - rested
            say(f"killed: {dict(processes.killed)}; ended by themselves: {dict(processes.ended)}")
        return _found(database, environment, troubled, seconds, say)


def _kill(processes: Processes, kind: str, database: Database, plan: Plan) -> None:
    if plan.hurry > 1 and kind == "schedules":
        _execute(database.url, RELEASE)
    processes.keep_running()


def _execute(url: str, statement: str, **values: Any) -> None:
    with connect(url) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


class _Hastened:
    """Lets pauses pass faster while the block runs."""

    def __init__(self, database: Database, times: float) -> None:
        self._url, self._times = database.url, times
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(1.0):
            for statement in HASTEN:
                _execute(self._url, statement, by=timedelta(seconds=self._times - 1))

    def __enter__(self) -> None:
        if self._times > 1:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()


def _come_to_rest(
    database: Database, processes: Processes, troubled: TroubledNetwork, newest: int, plan: Plan, say: Say
) -> None:
    living = [author.did for author in troubled.living]
    deleted = [author.did for author in troubled.deleted]
    began = said = time.monotonic()
    quiet = 0
    while quiet < 3:  # looks in a row: what is queued next may not be queued yet
        time.sleep(LOOK_SECONDS)
        processes.keep_running()
        left = {
            what: count
            for what, statement in OPEN.items()
            if (count := _count(database.url, statement, living=living, deleted=deleted, newest=newest)) > 0
        }
        quiet = 0 if left else quiet + 1
        now = time.monotonic()
        if left and now - said > 15:
            said = now
            say(f"{now - began:,.0f} s after the network came to rest: {left}")
        assert now - began < plan.patience, f"still {left}\n{_why(database.url)}\n{processes.last_words()}"


def _count(url: str, statement: str, **values: Any) -> int:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        ((count,),) = cursor.fetchall()
        return int(count)


def _why(url: str) -> str:
    """What stands in the way, for a failure."""
    found = {
        "states": "SELECT sync_state, sync_reason, count(*), min(did) FROM pipeline.repo "
        "WHERE active AND NOT excluded AND sync_state <> 'synchronized' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 8",
        "queue": "SELECT reason, error, count(*), min(did), min(not_before - now()), max(attempts) "
        "FROM pipeline.backfill_queue WHERE finished_at IS NULL GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 8",
        "gaps": "SELECT row_to_json(g)::text FROM pipeline.gap g WHERE resolved_at IS NULL LIMIT 8",
        "listings": "SELECT row_to_json(l)::text FROM pipeline.relay_listing l",
        "letters": "SELECT kind, count(*) FROM pipeline.dead_letter WHERE resolved_at IS NULL GROUP BY 1",
    }
    return "\n".join(f"{what}: {rows(url, statement)}" for what, statement in found.items())


STORED = (
    "SELECT row_to_json(x)::text FROM pipeline.repo x WHERE did = %(did)s",
    "SELECT row_to_json(x)::text FROM pipeline.backfill_queue x WHERE did = %(did)s",
    "SELECT row_to_json(x)::text FROM pipeline.gap x WHERE did = %(did)s ORDER BY id",
    "SELECT (to_jsonb(x) - 'bytes')::text FROM pipeline.dead_letter x WHERE did = %(did)s ORDER BY id",
    "SELECT row_to_json(x)::text FROM pipeline.tombstone x WHERE uri = %(uri)s",
    "SELECT row_to_json(x)::text FROM pipeline.version x WHERE uri = %(uri)s",
    "SELECT (to_jsonb(x) - 'json')::text FROM bsky.record x WHERE uri = %(uri)s",
    "SELECT row_to_json(x)::text FROM pipeline.pending x WHERE missing = %(uri)s",
)


def explain(url: str, troubled: TroubledNetwork, uri: str) -> str:
    """What is stored of a record that differs, and what the relay still has of its repository."""
    did = uri.split("/")[2]
    lines = [f"----- {uri}", *troubled.history(did)]
    for statement in STORED:
        with connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(statement, {"did": did, "uri": uri})
            lines += [f"{statement.split()[3]}: {text}" for (text,) in cursor.fetchall()]
    return "\n".join(lines)


def _found(
    database: Database, environment: dict[str, str], troubled: TroubledNetwork, seconds: float, say: Say
) -> Rest:
    settings = load({**environment, "APPVIEW_DATABASE_URL": database.url})
    dids = [author.did for author in troubled.living]
    with Client(settings) as client:
        summary = audit(settings, database, Fetcher(settings, database, client), dids, deep=True)
    drift = 0
    with database.connect("reader") as connection:
        now = datetime.now(timezone.utc)
        for check in ("post_aggregates", "profile_aggregates"):
            drift += aggregate_drift(
                connection, check, now - timedelta(days=1), now + timedelta(days=1), 10**9
            ).differing
    for example in list(summary.examples)[:5]:
        say(explain(database.url, troubled, example.uri))
    deleted = [author.did for author in troubled.deleted]
    ((left,),) = rows(database.url, "SELECT count(*) FROM bsky.record WHERE did = ANY(%s)", deleted)
    gaps = Counter(dict(rows(database.url, "SELECT kind, count(*) FROM pipeline.gap GROUP BY 1")))
    ((resyncs,),) = rows(database.url, "SELECT sum(repositories) FROM pipeline.backfill_batch")
    return Rest(
        seconds=seconds,
        repositories=summary.repositories,
        records=summary.records,
        missing=summary.missing,
        extra=summary.extra,
        differing=summary.differing,
        underived=summary.underived,
        failed=dict(summary.failed),
        examples=list(summary.examples),
        drift=drift,
        left=left,
        gaps=gaps,
        resyncs=int(resyncs or 0),
    )


def in_words(rest: Rest) -> str:
    """The result on a few lines."""
    return (
        f"at rest after {rest.seconds:,.0f} s; gaps that had been noted: {dict(rest.gaps)}; "
        f"repositories fetched and applied: {rest.resyncs:,}\n"
        f"audit: {rest.repositories:,} repositories, {rest.records:,} records; {rest.missing} missing, "
        f"{rest.extra} extra, {rest.differing} differing, {rest.underived} with wrong rows of their own; "
        f"{len(rest.failed)} failed; counters that differ from a recount: {rest.drift}; "
        f"records of deleted accounts: {rest.left}"
    )


@click.command(context_settings={"show_default": True})
@click.option("--accounts", default=Plan.accounts, help="Repositories.")
@click.option("--kills", default=Plan.kills, help="SIGKILLs of processes, at random moments.")
@click.option("--seconds", default=Plan.seconds, help="How long the network changes.")
@click.option("--seed", default=Plan.seed, help="Another seed, another world and other moments.")
@click.option("--rate", default=Plan.rate, help="Frames a second.")
@click.option("--outage", default=Plan.outage, help="Frames of the week without the consumer; 0: no such week.")
@click.option("--hurry", default=Plan.hurry, help="Pauses pass so many times faster than time.")
def main(accounts: int, kills: int, seconds: float, seed: int, rate: float, outage: int, hurry: float) -> None:
    """Nothing stays missing: a network in which everything goes wrong, and the pipeline killed all along."""
    plan = Plan(accounts, kills, seconds, seed, rate, outage=outage, hurry=hurry)
    with closing(ephemeral()) as server:
        database = open_database(load({"APPVIEW_DATABASE_URL": server.url()}), migrate=True)
        try:
            rest = run(database, plan, click.echo)
        finally:
            database.close()
    click.echo(in_words(rest))
    for example in rest.examples[:10]:
        click.echo(f"  {example}")
    for did, reason in list(rest.failed.items())[:10]:
        click.echo(f"  {did}: {reason}")
    if rest.differences:
        raise click.ClickException(f"{rest.differences} differences")


if __name__ == "__main__":
    main()
