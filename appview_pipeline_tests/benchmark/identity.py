"""The benchmark of resolution: `python -m appview_pipeline_tests.benchmark.identity`; docs/benchmarks.md has more.

Accounts whose DIDs hang, fail, or get nonsense are resolved beside the stream. What it tells: whether the stream keeps
its rate, how long the queue takes to drain, the memory of the identity process over that time, how often breakers open;
and with a directory that is well, resolutions a second and CPU.
"""

from __future__ import annotations

import itertools
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click

from appview_pipeline_tests.benchmark import processes, sides
from appview_pipeline_tests.benchmark.corpus import Corpus, corpus
from appview_pipeline_tests.benchmark.databases import Databases, query
from appview_pipeline_tests.benchmark.directory import DirectoryProcess
from appview_pipeline_tests.benchmark.measure import Percentiles, Plan, catch_up, start_consumers, wait_for_seq
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.sides import Consumer, IdentityProcess, Server
from appview_pipeline_tests.simulated_network.faults import AccountFaults

SHARES = AccountFaults(hang=0.10, fail=0.05, garbage=0.01, huge=0.01, seed=11)
"""What happens to which share of the accounts."""

_QUEUE = (
    "INSERT INTO pipeline.identity (did, queue, wanted_at, asked_at) "
    "SELECT did, 'new', now(), now() FROM unnest(%s) did ON CONFLICT (did) DO NOTHING"
)
_PROGRESS = (
    "SELECT count(*) FILTER (WHERE state IS NOT NULL), count(*) FILTER (WHERE state IS NOT NULL OR attempts > 0), "
    "count(*) FILTER (WHERE state = 'found' AND did = ANY (%s)) FROM pipeline.identity WHERE did = ANY (%s)"
)
_ASK = "UPDATE pipeline.identity SET queue = 'event', wanted_at = now(), asked_at = now() WHERE did = %s"
_LATE = (
    "SELECT extract(epoch FROM resolved_at - asked_at)::float8 * 1000 FROM pipeline.identity "
    "WHERE did = ANY (%s) AND queue IS NULL"
)
_BREAKERS = "SELECT host, breaker, opened FROM pipeline.upstream"


@dataclass
class Stream:
    """What the stream did: commits a second while catching up; at its pace, how long events took from arrival to where
    they can be read, and cores in use of the consumer and of the identity process."""

    catch_up: float
    live: Percentiles | None = None
    consumer_cores: float = 0.0
    identity_cores: float = 0.0


@dataclass
class Drain:
    """A backlog of new accounts worked off.

    `attempted_seconds`, `healthy_seconds`: until every account had an attempt, and every healthy one was found; None:
    not within the time. `answered_per_second`: from the first answer on. `cpu_ms`: CPU milliseconds of the process for
    each account that was answered. `late`: milliseconds until healthy accounts were resolved again that events asked
    for after the backlog, one a second. `memory`: (second, MB). `transitions`: (second, host, state of its breaker).
    """

    accounts: int
    healthy: int
    attempted_seconds: float | None = None
    healthy_seconds: float | None = None
    answered: int = 0
    answered_per_second: float = 0.0
    cpu_ms: float = 0.0
    late: Percentiles | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    transitions: list[tuple[float, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Campaign:
    """What to run: see the options of the command."""

    accounts: int
    frames: int
    pairs: int
    rate: float
    live_seconds: float
    patience: float
    late: int

    @property
    def plan(self) -> Plan:
        """A run of the stream."""
        return Plan(self.frames, again=False, rate=self.rate, live_seconds=self.live_seconds)


@dataclass
class Results:
    """`without`, `beside`: runs of the stream alone, and beside resolution with faults. `ratio`: of the medians of
    their rates. `faulty`, `healthy`: backlogs worked off."""

    without: list[Stream] = field(default_factory=list)
    beside: list[Stream] = field(default_factory=list)
    faulty: Drain | None = None
    healthy: Drain | None = None

    @property
    def ratio(self) -> float:
        return statistics.median(it.catch_up for it in self.beside) / statistics.median(
            it.catch_up for it in self.without
        )

    @property
    def live_ratio(self) -> float | None:
        """The same of the 99th percentiles from arrival to readable, at the stream's pace; None without them."""
        pairs = [[it.live.p99 for it in runs if it.live is not None] for runs in (self.without, self.beside)]
        return statistics.median(pairs[1]) / statistics.median(pairs[0]) if all(pairs) else None


@click.command(context_settings={"show_default": True})
@click.option("--accounts", default=20_000, help="New accounts that wait to be resolved.")
@click.option("--frames", default=60_000, help="Frames that are caught up with.")
@click.option("--pairs", default=3, help="Runs of the stream, without resolution and beside it by turns.")
@click.option("--rate", default=500.0, help="Frames a second of the live parts.")
@click.option("--live-seconds", default=30.0, help="Length of the live part of each run.")
@click.option("--patience", default=3_600.0, help="Limit of the seconds that a backlog may take.")
@click.option("--late", default=60, help="Healthy accounts that events ask for after a backlog, one a second.")
@click.option("--small", is_flag=True, help="Small frames, made in no time.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write it as JSON.")
def main(
    accounts: int,
    frames: int,
    pairs: int,
    rate: float,
    live_seconds: float,
    patience: float,
    late: int,
    small: bool,
    json_path: Path | None,
) -> None:
    """Resolution beside the stream, with a directory that misbehaves, and alone with one that is well."""
    if not Path("/proc/self/stat").exists():
        raise click.ClickException("The benchmark reads CPU and memory from /proc: run it on Linux.")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no server behind
    campaign = Campaign(
        accounts=accounts,
        frames=frames,
        pairs=pairs,
        rate=rate,
        live_seconds=live_seconds,
        patience=patience,
        late=late,
    )
    made = corpus(campaign.plan.all_frames, small=small)
    with (
        sides.scratch() as folder,
        DirectoryProcess(made, accounts) as directory,
        Server(sides.ours(folder / "ours"), folder / "a") as server,
    ):
        results = _run(Databases(server, made), made, directory, campaign, folder)
    click.echo(_in_words(results))
    if json_path is not None:
        values = {"campaign": asdict(campaign), "ratio": results.ratio, "live_ratio": results.live_ratio}
        json_path.write_text(json.dumps(values | asdict(results), indent=1))
        click.echo(f"Written to {json_path}")


def _run(databases: Databases, made: Corpus, directory: DirectoryProcess, campaign: Campaign, folder: Path) -> Results:
    results = Results()
    dids = directory.dids[: campaign.accounts]
    sick = {did for did in dids if SHARES.of(did) is not None}
    directory.misbehave(SHARES)
    for number in range(campaign.pairs):
        is_last = number == campaign.pairs - 1
        click.echo(f"run {number + 1} of {campaign.pairs}: the stream alone", err=True)
        with databases.fresh(0) as name:
            results.without.append(_stream(databases.server, name, made, campaign, folder))
        click.echo(f"run {number + 1} of {campaign.pairs}: the stream beside resolution", err=True)
        with databases.fresh(0) as name, _resolution(databases.server, name, directory, dids, folder) as process:
            drain = Drain(len(dids), len(dids) - len(sick))
            watch = Watch(databases.server.libpq(name), process, drain, dids, sick)
            results.beside.append(_stream(databases.server, name, made, campaign, folder, process, watch.look))
            if is_last:
                watch.until_drained(campaign)
                watch.outage(directory, SHARES)
                results.faulty = drain
    click.echo("a directory that is well", err=True)
    directory.misbehave(AccountFaults())
    with databases.fresh(0) as name, _resolution(databases.server, name, directory, dids, folder) as process:
        drain = Drain(len(dids), len(dids))
        Watch(databases.server.libpq(name), process, drain, dids, set()).until_drained(campaign)
        results.healthy = drain
    return results


def _resolution(
    server: Server, database: str, directory: DirectoryProcess, dids: list[str], folder: Path
) -> IdentityProcess:
    """The identity process, with `dids` in its queue."""
    query(server.libpq(database), _QUEUE, dids)
    return IdentityProcess(
        server.side,
        folder / "identity.log",
        **{**directory.environment, "APPVIEW_DATABASE_URL": server.url(database)},
    )


def _stream(
    server: Server,
    database: str,
    made: Corpus,
    campaign: Campaign,
    folder: Path,
    identity: Consumer | None = None,
    look: Callable[[], None] = lambda: None,
) -> Stream:
    plan = campaign.plan
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(made, 0, plan.all_frames))
        arrivals, consumer = start_consumers(stack, server, database, relay, plan, folder / "consumer.log")
        look()
        per_second, _, _ = catch_up(server, relay, arrivals, consumer, plan.frames)
        found = Stream(per_second)
        look()
        if not plan.live_frames:
            return found
        time.sleep(2)  # the end of catching up
        client, began = consumer.cpu_seconds(), time.monotonic()
        resolving = identity.cpu_seconds() if identity is not None else 0.0
        marks = relay.pace(plan.live_frames, plan.rate)
        wait_for_seq(arrivals, consumer, marks[-1][0])
        seconds = time.monotonic() - began
        look()
        return replace(
            found,
            live=Percentiles.of([(arrivals.readable_at(seq) - at) * 1000 for seq, at in marks]),
            consumer_cores=(consumer.cpu_seconds() - client) / seconds,
            identity_cores=(identity.cpu_seconds() - resolving) / seconds if identity is not None else 0.0,
        )


class Watch:
    """Looks at a backlog again and again, and notes what has changed in `drain`."""

    def __init__(self, libpq: str, process: Consumer, drain: Drain, dids: list[str], sick: set[str]) -> None:
        self._libpq, self._process, self._drain = libpq, process, drain
        self._dids = dids
        self._healthy = [did for did in dids if did not in sick]
        self._began = time.monotonic()
        self._breakers: dict[str, tuple[str, int]] = {}
        self._first_answer: float | None = None

    def look(self) -> None:
        """Once."""
        drain, now = self._drain, time.monotonic() - self._began
        self._process.check()
        drain.memory.append((round(now, 1), round(processes.megabytes(self._process.pid), 1)))
        for host, breaker, opened in query(self._libpq, _BREAKERS):
            before = self._breakers.get(host, ("closed", 0))
            if opened > before[1] and breaker == before[0] == "closed":  # it opened and closed in between
                drain.transitions.append((round(now, 1), host, "open"))
            if breaker != before[0] or opened > before[1]:
                drain.transitions.append((round(now, 1), host, breaker))
            self._breakers[host] = (breaker, opened)
        drain.answered, attempted, healthy = query(self._libpq, _PROGRESS, self._healthy, self._dids)[0]
        if drain.answered and self._first_answer is None:
            self._first_answer = now
        if attempted == len(self._dids) and drain.attempted_seconds is None:
            drain.attempted_seconds = round(now, 1)
        if healthy == len(self._healthy) and drain.healthy_seconds is None:
            drain.healthy_seconds = round(now, 1)

    def until_drained(self, campaign: Campaign) -> None:
        """Until every account was attempted, and every healthy one resolved; and a moment longer."""
        drain, said = self._drain, 0.0
        while drain.attempted_seconds is None or drain.healthy_seconds is None:
            self.look()
            seconds = time.monotonic() - self._began
            if seconds - said >= 30:
                said = seconds
                click.echo(f"    {seconds:,.0f} s: {drain.answered:,} of {drain.accounts:,} answered", err=True)
            if seconds > campaign.patience:
                break
            time.sleep(0.5)
        seconds = time.monotonic() - self._began
        drain.answered_per_second = drain.answered / max(1.0, seconds - (self._first_answer or 0.0))
        drain.cpu_ms = self._process.cpu_seconds() / max(1, drain.answered) * 1_000
        self._ask_again(self._healthy[: campaign.late])

    def _ask_again(self, dids: list[str]) -> None:
        """Events ask for accounts, one a second."""
        click.echo(f"    events ask for {len(dids)} healthy accounts", err=True)
        for did in dids:
            query(self._libpq, _ASK, did)
            self.look()
            time.sleep(1.0)
        deadline = time.monotonic() + 180
        while len(found := query(self._libpq, _LATE, dids)) < len(dids) and time.monotonic() < deadline:
            time.sleep(1.0)
            self.look()
        self._drain.late = Percentiles.of([row[0] for row in found])

    def outage(self, directory: DirectoryProcess, before: AccountFaults) -> None:
        """The directory fails until its breaker is seen open; then until it is seen closed again, which events find
        out."""
        click.echo("    the directory is down", err=True)
        directory.misbehave(AccountFaults(fail=1.0))
        asked = itertools.cycle(self._healthy)
        for state, patience in (("open", 60), ("closed", 180)):
            deadline = time.monotonic() + patience
            while self._breakers.get(directory.plc, ("closed", 0))[0] != state and time.monotonic() < deadline:
                query(self._libpq, _ASK, next(asked))
                time.sleep(0.5)
                self.look()
            directory.misbehave(before)


def _in_words(results: Results) -> str:
    """A table for a person."""
    lines = [
        f"  {'the stream':<34}{'alone':>12}{'beside':>12}{'ratio':>8}",
        _line(
            "commits/s, catching up", [it.catch_up for it in results.without], [it.catch_up for it in results.beside]
        ),
    ]
    if results.live_ratio is not None:
        for name, of in (("p50", "p50"), ("p99", "p99")):
            alone, beside = (
                [getattr(it.live, of) for it in runs if it.live is not None]
                for runs in (results.without, results.beside)
            )
            lines.append(_line(f"arrival to readable, ms, {name}", alone, beside))
        cores = statistics.median(it.identity_cores for it in results.beside)
        lines.append(f"  identity process while it drains: {cores:.1%} of a core")
    for title, drain in (
        ("a directory that misbehaves", results.faulty),
        ("a directory that is well", results.healthy),
    ):
        if drain is not None:
            lines += [
                "",
                f"  {title}: {drain.accounts:,} accounts, {drain.healthy:,} of them healthy",
                *_drained(drain),
            ]
    return "\n".join(lines)


def _line(name: str, alone: list[float], beside: list[float]) -> str:
    a, b = statistics.median(alone), statistics.median(beside)
    return f"  {name:<34}{a:>12,.0f}{b:>12,.0f}{b / (a or 1e-9):>8.3f}"


def _drained(drain: Drain) -> list[str]:
    def seconds(value: float | None) -> str:
        return "not within the time" if value is None else f"after {value:,.1f} s"

    megabytes = [value for _, value in drain.memory]
    tenth = max(1, len(megabytes) // 10)
    opened = sum(state == "open" for _, _, state in drain.transitions)
    closed = sum(state == "closed" for _, _, state in drain.transitions)
    return [
        f"    every account attempted {seconds(drain.attempted_seconds)}, "
        f"every healthy one found {seconds(drain.healthy_seconds)}",
        f"    {drain.answered:,} answered, {drain.answered_per_second:,.1f} a second, {drain.cpu_ms:.2f} ms CPU each",
        f"    memory: {megabytes[0]:,.0f} MB at first, {statistics.median(megabytes[-tenth:]):,.0f} MB at the end, "
        f"{max(megabytes):,.0f} MB at most",
        f"    events after the backlog, until they were resolved: {drain.late}",
        f"    breakers opened {opened:,} times, closed {closed:,} times",
    ]


if __name__ == "__main__":
    main()
