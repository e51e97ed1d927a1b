"""Many processes share one embedded server: starting, attaching, and its end after the last of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.attach import attach as attach_to
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.embedded_server import (
    IDLE,
    USER,
    User,
    attach,
    kill,
    new_state,
    postmaster_pid,
    processes,
    query,
    supervisor_pid,
)
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_five_cold_starters_share_one_server_that_ends_after_the_last(state: Path) -> None:
    # libpq's variables of somebody who usually works with another server must not matter.
    users = [User(state, env={"PGPORT": "1", "PGHOST": "/nowhere", "PGUSER": "x", "PGDATA": "/x"}) for _ in range(5)]
    urls = {user.answer().get("url") for user in users}
    assert len(urls) == 1
    url = urls.pop()
    assert url
    assert len(processes(state, "embedded.supervisor")) == 1
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    for user in users[:-1]:
        user.end()
    time.sleep(2 * IDLE)
    assert query(url, "SELECT answer FROM kept") == 42
    users[-1].end()
    wait_for(lambda: not processes(state), IDLE + 5)
    with attach(state) as again:
        assert query(again.url(), "SELECT answer FROM kept") == 42


def test_supervisor_is_detached_and_keeps_no_pipe_of_its_starter(warm_state: Path) -> None:
    wait_for(lambda: not processes(warm_state))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", USER, str(warm_state), "5", ""],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        input="",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert time.monotonic() - began < 5
    assert "url" in json.loads(done.stdout)
    assert done.stderr == ""
    pid = supervisor_pid(warm_state)
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes(warm_state))


def test_killed_user_holds_nothing_even_if_programs_it_started_live_on(warm_state: Path) -> None:
    code = USER.replace(
        "for line", 'import subprocess; print(subprocess.Popen(["sleep", "60"]).pid, flush=True)\nfor line'
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(warm_state), str(IDLE), ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert user.stdout
    assert b"url" in user.stdout.readline()
    sleeper = int(user.stdout.readline())
    user.kill()
    user.wait()
    wait_for(lambda: not processes(warm_state), IDLE + 8)
    assert Path(f"/proc/{sleeper}").exists()
    kill(sleeper)


def test_forked_child_keeps_the_server(warm_state: Path) -> None:
    code = USER.replace("for line", "import os\nif os.fork(): os._exit(0)\nfor line")
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(warm_state), str(IDLE), ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert user.stdout and user.stdin
    url = json.loads(user.stdout.readline())["url"]
    user.wait()
    time.sleep(2 * IDLE)
    assert query(url, "SELECT 1") == 1
    user.stdin.close()
    wait_for(lambda: not processes(warm_state), IDLE + 5)


def test_attaching_while_the_server_is_about_to_stop(warm_state: Path) -> None:
    """With next to no idle time every attach meets a supervisor in some moment of its end."""
    chance = random.Random(7)
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(6):
                settings = Settings(state_dir=warm_state)
                with attach_to(settings, idle_seconds=0.05) as pg:
                    assert query(pg.url(), "SELECT 1") == 1
                    time.sleep(chance.random() * 0.05)
                    assert query(pg.url(), "SELECT 1") == 1
                time.sleep(chance.random() * 0.25)
        except BaseException as error:  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_for(lambda: not processes(warm_state))


def test_nobody_is_given_a_server_that_is_stopping(warm_state: Path) -> None:
    """However long the stop takes, a process that attaches meanwhile waits for it, and then starts the server again."""
    wait_for(lambda: not processes(warm_state))
    folder = StateFolder(warm_state)
    attach(warm_state).close()
    old = supervisor_pid(warm_state)
    postmaster = postmaster_pid(warm_state)
    os.kill(postmaster, signal.SIGSTOP)  # its stop will take until we let it go on
    wait_for(lambda: folder.log.read_text().splitlines()[-1].endswith("stopping: no process uses it"))
    users_lock = folder.open("users.lock", os.O_RDWR)
    free = state_folder.lock(users_lock, "shared")
    os.close(users_lock)
    assert not free
    user = User(warm_state)
    time.sleep(0.5)
    os.kill(postmaster, signal.SIGCONT)
    assert query(user.answer()["url"], "SELECT 1") == 1
    assert supervisor_pid(warm_state) != old
    user.end()


def test_attaching_to_a_running_server_is_cheap(warm_state: Path) -> None:
    with attach(warm_state):
        began = time.monotonic()
        for _ in range(5):
            attach(warm_state).close()
        assert (time.monotonic() - began) / 5 < 0.1


def test_removing_the_state_folder_under_a_running_server(state: Path) -> None:
    with attach(state) as pg:
        query(pg.url(), "CREATE TABLE gone ()")
        old = supervisor_pid(state)
        while state.exists():  # what the server removes itself meanwhile is no error
            shutil.rmtree(state, ignore_errors=True)
        with attach(state) as new:
            assert query(new.url(), "SELECT to_regclass('gone')") is None
            wait_for(lambda: old not in processes(state))
            assert query(new.url(), "SELECT 1") == 1


def test_supervisor_imports_little() -> None:
    code = (
        "import sys, appview_pipeline.store.embedded.supervisor\n"
        "print([m for m in ('sqlalchemy', 'dagster', 'alembic', 'orjson', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ephemeral_server_leaves_nothing_and_deletes_what_killed_ones_left() -> None:
    with new_state() as parent:
        parent.mkdir()
        parent.chmod(0o755)
        left = parent / "appview-ephemeral-left"
        left.mkdir()
        (left / "owner.lock").touch()
        os.utime(left, (0, 0))
        with ephemeral(parent=parent) as pg:
            assert not left.exists()
            assert query(pg.url(), "SHOW fsync") == "off"
            assert list(parent.iterdir()) == [pg.state_dir]
        assert list(parent.iterdir()) == []
