"""The same frames through the published reference indexer, `@atproto/bsky`, into a database of its own.

What it does is what it ships: `RepoSubscription` with its defaults. It checks the hash of every block but neither
signatures nor trees (it constructs its firehose with `unauthenticatedCommits`), asks the directory once an account for
its handle, and indexes every record in a transaction of its own.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from appview_pipeline_tests.benchmark import processes
from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.sides import Server
from appview_pipeline_tests.conformance.reference.packages import NODE, install

SCRIPT = Path(__file__).with_suffix(".mjs")
COMPARED = ("record", "like", "post", "repost", "follow", "notification")


@dataclass(frozen=True)
class ReferenceRun:
    """CPU in milliseconds a commit, memory in megabytes, `rows` of the tables in `COMPARED`."""

    commits: int
    per_second: float
    client_cpu: float
    postgres_cpu: float
    peak_memory: float
    rows: dict[str, int]

    @property
    def cpu(self) -> float:
        return self.client_cpu + self.postgres_cpu


def row_counts(libpq: str) -> dict[str, int]:
    """Rows of the tables that are compared."""
    counts = ", ".join(f'(SELECT count(*) FROM bsky."{table}")' for table in COMPARED)
    return dict(zip(COMPARED, query(libpq, f"SELECT {counts}")[0], strict=True))


def run(server: Server, corpus: Corpus, frames: int, log: Path) -> ReferenceRun:
    """Runs the first `frames` frames of the corpus through the reference, as fast as they go."""
    packages = install()
    database = "reference"
    query(server.libpq("postgres"), f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    query(server.libpq("postgres"), f"CREATE DATABASE {database}")
    query(server.libpq(database), "CREATE SCHEMA bsky")
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(corpus, 0, frames, directory=True))
        output = stack.enter_context(log.open("wb"))
        url = f"socket://postgres@{server.socket_dir}?db={database}&port=5432"
        process = subprocess.Popen(
            [NODE, SCRIPT, packages, url, relay.url, relay.plc_url, str(relay.last_seq)],
            env=server.side.environment(LOG_ENABLED="false"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)

        def said() -> dict[str, object]:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                last = log.read_text().strip().splitlines()[-1:]
                raise click.ClickException(f"The reference ended with code {process.wait()}: {' '.join(last)}")
            answer: dict[str, object] = json.loads(line)
            return answer

        said()
        while not relay.connections():
            time.sleep(0.05)
        time.sleep(1)
        client, postgres = processes.cpu_seconds(process.pid), server.cpu_seconds()
        began, _ = relay.publish(frames)
        said()
        seconds = time.monotonic() - began
        client, postgres = processes.cpu_seconds(process.pid) - client, server.cpu_seconds() - postgres
        peak = processes.peak_megabytes(process.pid)
    rows = row_counts(server.libpq(database))
    query(server.libpq("postgres"), f"DROP DATABASE {database} WITH (FORCE)")
    return ReferenceRun(
        commits=frames,
        per_second=frames / seconds,
        client_cpu=client / frames * 1000,
        postgres_cpu=postgres / frames * 1000,
        peak_memory=peak,
        rows=rows,
    )
