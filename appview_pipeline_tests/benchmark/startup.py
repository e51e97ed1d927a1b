"""From `dagster dev` on a machine that knows nothing to the first record, and the memory of all that runs then."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg2

from appview_pipeline_tests.benchmark import processes
from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.sides import Side

PATIENCE = 180.0


@dataclass(frozen=True)
class Startup:
    """Seconds, processes and their memory (PSS, so that what they share counts once) in megabytes by kind."""

    seconds_to_first_row: float
    after_seconds: float
    memory: dict[str, float]
    processes: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:,.0f}" for name, value in self.memory.items())
        return (
            f"{self.seconds_to_first_row:.1f} s from `dagster dev` to the first record; {self.after_seconds:.0f} s "
            f"later {sum(self.memory.values()):,.0f} MB in {self.processes} processes ({parts})"
        )


def measure(side: Side, corpus: Corpus, folder: Path, *, rate: float = 500.0, settle_seconds: float = 60.0) -> Startup:
    """Starts `dagster dev` in `folder` as in a fresh checkout, with a fresh DAGSTER_HOME inside, while the relay sends
    `rate` frames a second; what its processes hold is summed up `settle_seconds` after the first record."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    shutil.copy(side.checkout / "dagster.yaml", home)
    shutil.copy(side.checkout / "workspace.yaml", folder)
    state = folder / "state"
    mark = f"APPVIEW_BENCHMARK={uuid.uuid4()}"
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(corpus, 0, corpus.frames, directory=True))
        log = stack.enter_context((folder / "dev.log").open("wb"))
        began = time.monotonic()
        dev = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", "-p", str(_free_port())],
            cwd=folder,
            env=side.environment(
                DAGSTER_HOME=str(home),
                APPVIEW_STATE_DIR=str(state),
                APPVIEW_RELAY_URL=relay.url,
                APPVIEW_PLC_URL=relay.plc_url,
                APPVIEW_LABELERS="none",  # those of the default are not in this network
                APPVIEW_START_CURSOR="0",
                APPVIEW_BENCHMARK=mark.partition("=")[2],
            ),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_end, dev, mark, state)
        while not relay.connections():
            _check(dev, folder, began)
            time.sleep(0.05)
        # The relay's stream begins when somebody listens; it is paced in its own process, its answer is not waited for.
        relay.begin_pace(int(min(corpus.frames, rate * (settle_seconds + 60))), rate)
        while not _has_record(state):
            _check(dev, folder, began)
            time.sleep(0.05)
        first = time.monotonic()
        while time.monotonic() < first + settle_seconds:
            _check(dev, folder, time.monotonic())
            time.sleep(0.5)
        running = _running(mark, state)
        memory: dict[str, float] = {}
        for pid, command in running.items():
            kind = _kind(command)
            memory[kind] = memory.get(kind, 0.0) + processes.pss_megabytes([pid])
    return Startup(first - began, settle_seconds, dict(sorted(memory.items(), key=lambda item: -item[1])), len(running))


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check(dev: subprocess.Popen[bytes], folder: Path, since: float) -> None:
    if dev.poll() is not None or time.monotonic() > since + PATIENCE:
        last = (folder / "dev.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise click.ClickException(f"`dagster dev` indexes nothing; it said: {' / '.join(last)}")


def _has_record(state: Path) -> bool:
    """Looks without starting anything: whether the server is there, and a record in it."""
    try:
        socket_dir = (state / "pgdata" / "postmaster.pid").read_text().splitlines()[4]
        with (
            closing(
                psycopg2.connect(host=socket_dir, port=5432, user="postgres", dbname="appview", connect_timeout=2)
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT EXISTS (SELECT FROM bsky.record)")
            return cursor.fetchone() == (True,)
    except (OSError, IndexError, psycopg2.Error):
        return False


def _running(mark: str, state: Path) -> dict[int, str]:
    """Every process of this `dagster dev`, whoever its parent is, with its command."""
    pids: set[int] = set()
    with contextlib.suppress(OSError, IndexError, ValueError):  # no server (any more)
        pids |= set(processes.tree(int((state / "pgdata" / "postmaster.pid").read_text().splitlines()[0])))
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                pids.add(int(entry.name))
        except OSError:
            continue  # it ended while we looked
    found = {}
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command:  # a zombie has none
            found[pid] = command
    return found


def _kind(command: str) -> str:
    for part, kind in (
        ("ingest.live.consumer", "consumer"),
        ("postgres", "PostgreSQL"),
        ("supervisor", "supervisor"),
        ("webserver", "webserver"),
        ("daemon", "daemon"),
        ("grpc", "code server"),
        ("dagster dev", "dagster dev"),
    ):
        if part in command:
            return kind
    return "other"


def _end(dev: subprocess.Popen[bytes], mark: str, state: Path) -> None:
    """Ctrl-C, as a person does it; what is left after a minute is killed."""
    if dev.poll() is None:
        os.killpg(dev.pid, signal.SIGINT)
    deadline = time.monotonic() + 60
    while _running(mark, state) and time.monotonic() < deadline:
        dev.poll()
        time.sleep(0.3)
    for pid in _running(mark, state):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    dev.wait()
