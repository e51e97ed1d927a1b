"""How fast the write path is: `python -m appview_pipeline_tests.benchmark`.

Generates really signed commits of real size (the simulated network), replays them into an empty embedded database of
its own, three times, and prints medians: commits a second, CPU milliseconds a commit for the client and for PostgreSQL
apart, the client's peak memory, and microseconds of each stage of decoding. `--record` adds a line to
docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg2

from appview_pipeline.indexing.batch import build
from appview_pipeline.indexing.changes import read_change
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.corpus import read_frames
from appview_pipeline.protocol.commit import read_commit
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.settings import Settings
from appview_pipeline.store import embedded
from appview_pipeline.store.staging import copy_text
from appview_pipeline_tests.simnet import generate
from appview_pipeline_tests.simnet.corpus import write_corpus

CHECKOUT = Path(__file__).resolve().parents[1]
HISTORY = CHECKOUT / "docs" / "benchmarks.md"
START = 1_780_000_000.0
"""Simulated time of the first frame, seconds since 1970: all revisions replay the same bytes."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One replay. CPU in milliseconds a commit, memory in megabytes, WAL in bytes a commit."""

    commits: int
    per_second: float
    client_cpu: float
    postgres_cpu: float
    peak_memory: float
    wal_bytes: float
    again_per_second: float


@click.command(context_settings={"show_default": True})
@click.option("--frames", default=60_000, help="Frames to generate and replay.")
@click.option("--runs", default=3, help="Replays into an empty database.")
@click.option("--batch-size", default=5_000, help="Frames in a transaction.")
@click.option("--record", help="Add a line with this remark to docs/benchmarks.md.")
def main(frames: int, runs: int, batch_size: int, record: str | None) -> None:
    """Measures replay; see the module."""
    with tempfile.TemporaryDirectory(prefix="appview-benchmark-", dir="/var/tmp") as folder:
        base = Path(folder)
        base.chmod(0o755)
        corpus = base / "corpus.bin"
        count = write_corpus(corpus, generate(7, 3_000, frames, start=START))
        size = corpus.stat().st_size / count
        click.echo(f"{count:,} frames of {size:,.0f} bytes")
        results = []
        for number in range(runs):
            results.append(run := _replay(base / f"run{number}", corpus, batch_size))
            click.echo(
                f"run {number + 1}: {run.per_second:,.0f} commits/s, client {run.client_cpu:.3f} ms, PostgreSQL "
                f"{run.postgres_cpu:.3f} ms, {run.peak_memory:,.0f} MB, {run.wal_bytes:,.0f} bytes of WAL a commit, "
                f"again {run.again_per_second:,.0f}/s"
            )
        # Last: what a child process is forked from counts as its peak memory, so this one stays small until here.
        for name, micros in _stages(corpus, batch_size).items():
            click.echo(f"  {name:<40} {micros:6.1f} us a frame")
        line = _line(results, size, record or "")
        click.echo(line)
        if record:
            with HISTORY.open("a") as history:
                history.write(line + "\n")


def _median(results: list[Run], field: str) -> float:
    return statistics.median(getattr(run, field) for run in results)


def _line(results: list[Run], size: float, remark: str) -> str:
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.strip()
    client, postgres = _median(results, "client_cpu"), _median(results, "postgres_cpu")
    return (
        f"| {time.strftime('%Y-%m-%d')} | {revision} | {results[0].commits:,} x {size:,.0f} B, empty | "
        f"{_median(results, 'per_second'):,.0f} | {client:.3f} + {postgres:.3f} = {client + postgres:.3f} | "
        f"{_median(results, 'peak_memory'):,.0f} | {_median(results, 'wal_bytes'):,.0f} | "
        f"{_median(results, 'again_per_second'):,.0f} | {remark} |"
    )


def _stages(corpus: Path, batch_size: int) -> dict[str, float]:
    """Microseconds a frame of each stage before PostgreSQL, each measured by itself, best of three."""
    frames = [frame for frame, _ in zip(read_frames(corpus), range(min(20_000, 4 * batch_size)), strict=False)]
    validators, collections = record_validators(), IndexedCollections()
    now = time.time_ns() // 1_000
    events = [decode_frame(frame) for frame in frames]
    changes = [read_change(e, f, now, validators, collections) for e, f in zip(events, frames, strict=True)]

    def commits() -> None:
        for event in events:
            if isinstance(event, Commit):
                read_commit(event, now, collections)

    def whole_changes() -> None:
        for event, frame in zip(events, frames, strict=True):
            read_change(event, frame, now, validators, collections)

    def rows() -> None:
        for start in range(0, len(changes), batch_size):
            build(changes[start : start + batch_size], "benchmark")

    batch = build(changes[:batch_size], "benchmark")

    def copies() -> None:
        for table in batch.rows.values():
            if table:
                copy_text(table)

    def best(stage: Callable[[], object], count: int = len(frames)) -> float:
        timings = []
        for _ in range(3):
            began = time.process_time()
            stage()
            timings.append(time.process_time() - began)
        return min(timings) / count * 1e6

    commit = best(commits)
    return {
        "envelope (decode_frame)": best(lambda: [decode_frame(frame) for frame in frames]),
        "commit, CAR, hashes, records, JSON": commit,
        "lexicon, collection rules, change": best(whole_changes) - commit,
        "batch: newest states, rows": best(rows),
        "COPY text": best(copies, min(batch_size, len(frames))),
    }


def _replay(state: Path, corpus: Path, batch_size: int) -> Run:
    """Replays twice into a new embedded database; the second time everything is applied already."""
    environment = {**os.environ, "APPVIEW_STATE_DIR": str(state), "LOG_LEVEL": "WARNING"}
    for name in ("DATABASE_URL", "APPVIEW_DATABASE_URL"):
        environment.pop(name, None)
    with embedded.attach(Settings(state_dir=state)) as server:
        command = [sys.executable, "-m", "appview_pipeline.cli"]
        subprocess.run([*command, "migrate"], env=environment, check=True, capture_output=True)
        replay = [*command, "replay", str(corpus), "--batch-size", str(batch_size)]
        wal, postgres = _wal(server.url()), _postgres_cpu(state)
        summary, cpu, memory = _measured(replay, environment)
        postgres, wal = _postgres_cpu(state) - postgres, _wal(server.url()) - wal
        again, _, _ = _measured(replay, environment)
    commits = summary["frames"]
    return Run(
        commits=commits,
        per_second=summary["events_per_second"],
        client_cpu=cpu / commits * 1000,
        postgres_cpu=postgres / commits * 1000,
        peak_memory=memory,
        wal_bytes=wal / commits,
        again_per_second=again["events_per_second"],
    )


def _measured(command: list[str], environment: dict[str, str]) -> tuple[dict[str, float], float, float]:
    """The command's JSON summary, its CPU seconds, its peak memory in megabytes."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return json.loads(output.splitlines()[-1]), usage.ru_utime + usage.ru_stime, _megabytes(usage)


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1_000 if platform.system() == "Linux" else 1_000_000)


def _wal(url: str) -> float:
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
            return float(cursor.fetchone()[0])
    finally:
        connection.close()


def _postgres_cpu(state: Path) -> float:
    """CPU seconds of the server so far: the postmaster's children that ended, and those that run."""
    postmaster = int((state / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
    total = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(entry.name) == postmaster:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            total += sum(map(int, fields[11:13]))
    return total / TICKS


if __name__ == "__main__":
    main()
