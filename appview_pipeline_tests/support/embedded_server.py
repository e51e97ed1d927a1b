"""Processes that use an embedded server, the processes of a state folder, and how to kill them."""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.attach import attach as attach_to
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.waiting import wait_for

IDLE = 1.0
IS_ROOT = os.geteuid() == 0
DEBIAN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), Path("/nowhere/initdb")).parent
needs_debian = pytest.mark.skipif(not DEBIAN.exists(), reason="no PostgreSQL server package installed")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")

# Attaches, prints one line of JSON, ends when its input ends. The line `ensure` makes it start the server when needed.
USER = """
import json, sys, time
from pathlib import Path
import psycopg2
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded.attach import attach
state, idle, binaries = sys.argv[1], float(sys.argv[2]), sys.argv[3]
try:
    pg = attach(
        Settings(state_dir=Path(state), postgres_bin=Path(binaries) if binaries else None), idle_seconds=idle
    )
except OperatorError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(1)
print(json.dumps({"url": pg.url(), "version": pg.version}), flush=True)
for line in sys.stdin:
    if line.strip() == "ensure":
        pg.ensure_running()
    print(json.dumps({"url": pg.url()}), flush=True)
"""


class User:
    """A process that uses the embedded server of `state`."""

    def __init__(self, state: Path, *, idle: float = IDLE, binaries: Path | str = "", **popen: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [popen.pop("python", sys.executable), "-c", USER, str(state), str(idle), str(binaries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | popen.pop("env", {}),
            cwd="/",
            **popen,
        )

    def answer(self) -> dict[str, str]:
        assert self.process.stdout
        answer: dict[str, str] = json.loads(self.process.stdout.readline())
        return answer

    def ensure(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("ensure\n")
        self.process.stdin.flush()
        assert "url" in self.answer()

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def processes(state: Path, what: str = "") -> dict[int, str]:
    """Command lines, by pid, of the supervisor, the server and its sessions on `state` that contain `what`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                inside = str((entry / "cwd").readlink()).startswith(f"{state}/")
            except OSError:
                continue
            ours = str(state) in command and ("embedded.supervisor" in command or "postgres -D" in command)
            if (ours or inside) and what in command:
                found[int(entry.name)] = command
    return found


def supervisor_pid(state: Path) -> int:
    (pid,) = processes(state, "embedded.supervisor")
    return pid


def postmaster_pid(state: Path) -> int:
    (pid,) = (pid for pid, command in processes(state, "-D").items() if "embedded.supervisor" not in command)
    return pid


def kill(*pids: int) -> None:
    """SIGKILLs all of them at once and returns when they have ended.

    A killed process keeps its locks for another moment, in which its server is still in charge and usable.
    """
    handles = []
    for pid in pids:
        with suppress(ProcessLookupError):  # a session that has just ended by itself
            handles.append(os.pidfd_open(pid))
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in handles:
        assert select.select([handle], [], [], 20)[0]
        os.close(handle)


def query(url: str, statement: str) -> Any:
    parts = urlsplit(url)
    with closing(
        psycopg2.connect(
            host=parse_qs(parts.query)["host"][0], port=5432, user="postgres", dbname=parts.path.strip("/")
        )
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()[0][0] if cursor.description else None


@contextmanager
def new_state(name: str = "state") -> Iterator[Path]:
    """A state folder (not yet created) that the server's user can reach, unlike pytest's own temporary folders."""
    parent = Path(tempfile.mkdtemp(prefix="appview-test-")).resolve()
    parent.chmod(0o755)
    state = parent / name
    try:
        yield state
    finally:
        for pid in processes(state, "embedded.supervisor"):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not processes(state))
        shutil.rmtree(parent)


def attach(state: Path, patience: float | None = None, **options: Any) -> EmbeddedPostgres:
    """Attaches to the server on `state`, which stops `IDLE` seconds after its last user. `options` are settings."""
    settings = Settings(state_dir=state, postgres_bin=options.pop("binaries", None), **options)
    return attach_to(settings, patience=patience, idle_seconds=IDLE)


NOBODY: dict[str, Any] = {}
"""Arguments with which root starts a process as `nobody`; for others empty."""
if IS_ROOT:
    _nobody = pwd.getpwnam("nobody")
    NOBODY = {"user": _nobody.pw_uid, "group": _nobody.pw_gid, "extra_groups": []}
