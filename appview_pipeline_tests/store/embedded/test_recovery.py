"""After every kill the embedded server comes back with all committed data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg2
import pytest

from appview_pipeline.store.embedded import server_user
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline.store.embedded.supervisor_status import read_status
from appview_pipeline_tests.support.embedded_server import (
    User,
    attach,
    kill,
    postmaster_pid,
    processes,
    query,
    supervisor_pid,
)
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_killed_postmaster_is_started_again_with_all_committed_data(warm_state: Path) -> None:
    user = User(warm_state)
    url = user.answer()["url"]
    query(url, "CREATE TABLE IF NOT EXISTS killed (n int)")
    for number in range(3):
        query(url, f"INSERT INTO killed VALUES ({number})")
        before = query(url, "SELECT count(*) FROM killed")
        supervisor = supervisor_pid(warm_state)
        postmaster = postmaster_pid(warm_state)
        kill(postmaster)
        user.ensure()
        assert query(url, "SELECT count(*) FROM killed") == before
        assert supervisor_pid(warm_state) == supervisor
    user.end()


def test_killed_supervisor_takes_the_server_along_and_both_come_back(warm_state: Path) -> None:
    user = User(warm_state)
    url = user.answer()["url"]
    query(url, "CREATE TABLE IF NOT EXISTS supervised AS SELECT 7 AS n")
    old = supervisor_pid(warm_state)
    kill(old)
    user.ensure()
    assert query(url, "SELECT n FROM supervised") == 7
    assert supervisor_pid(warm_state) != old
    kill(supervisor_pid(warm_state))
    with attach(warm_state) as other:
        assert query(other.url(), "SELECT n FROM supervised") == 7
        user.ensure()
        assert len(processes(warm_state, "embedded.supervisor")) == 1
    user.kill()


def test_everything_killed_at_once(warm_state: Path) -> None:
    user = User(warm_state)
    url = user.answer()["url"]
    query(url, "DROP TABLE IF EXISTS everything")
    query(url, "CREATE TABLE everything AS SELECT generate_series(1, 1000) AS n")
    kill(*processes(warm_state), user.process.pid)
    user.process.wait()
    with attach(warm_state) as again:
        assert query(again.url(), "SELECT sum(n) FROM everything") == 500500


def test_sessions_that_outlive_a_killed_postmaster_are_ended_first(warm_state: Path) -> None:
    with attach(warm_state) as pg:
        # Stopped, a session cannot notice that its postmaster died, and would write into its successor's files.
        connection = psycopg2.connect(host=str(pg.socket_dir), port=5432, user="postgres", dbname="appview")
        session = connection.info.backend_pid
        os.kill(session, signal.SIGSTOP)
        kill(supervisor_pid(warm_state), postmaster_pid(warm_state))
        # A stopped process ends by nothing but SIGKILL, the last resort after 20 s: waking it up here saves the wait.
        threading.Timer(1.0, os.kill, (session, signal.SIGCONT)).start()
        pg.ensure_running()
        assert session not in processes(warm_state)
        assert query(pg.url(), "SELECT 1") == 1
        connection.close()


def test_killed_in_the_middle_of_creating_the_data_directory(state: Path) -> None:
    user = User(state)
    wait_for(lambda: list(state.glob("initdb-*/*")))
    kill(*processes(state), user.process.pid)
    user.process.wait()
    assert not (state / "pgdata").exists()
    with attach(state) as pg:
        assert query(pg.url(), "SELECT 1") == 1
    assert not list(state.glob("initdb-*"))


@pytest.mark.slow
def test_server_that_dies_again_and_again_is_given_up_and_said_so(warm_state: Path) -> None:
    with attach(warm_state) as pg:
        for _ in range(6):
            wait_for(lambda: read_status(StateFolder(warm_state)).phase == "ready", 30)  # type: ignore[union-attr]
            kill(postmaster_pid(warm_state))
            wait_for(lambda: read_status(StateFolder(warm_state)).phase != "ready", 30)  # type: ignore[union-attr]
        wait_for(lambda: not processes(warm_state))
        status = read_status(StateFolder(warm_state))
        assert status and "died 6 times within 5 minutes" in status.reason
        pg.ensure_running()  # the next process that needs it tries again
        assert query(pg.url(), "SELECT 1") == 1


def test_stale_pid_file_of_an_innocent_process(warm_state: Path, server: EmbeddedPostgres) -> None:
    """Its pid was given to another process of the server's user: to a sleeper, then to another PostgreSQL server."""
    wait_for(lambda: not processes(warm_state))
    user = server_user.choose(warm_state / "pgdata")
    sleeper = subprocess.Popen(["sleep", "60"], **user.popen())
    other_server = int((server.state_dir / "pgdata/postmaster.pid").read_text().splitlines()[0])
    try:
        for pid in (sleeper.pid, other_server):
            stale = f"{pid}\n{warm_state}/pgdata\n1\n5432\n{warm_state}/run\n\n  1  1\nready   \n"
            for name in ("pgdata/postmaster.pid", "run/.s.PGSQL.5432.lock"):
                (warm_state / name).write_text(stale)
                user.own(warm_state / name)
            with attach(warm_state) as pg:
                assert query(pg.url(), "SELECT 1") == 1
            wait_for(lambda: not processes(warm_state))
        assert sleeper.poll() is None
        assert query(server.url(), "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()
