"""Where the state folder lies, its socket, its log, and links in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import sqlalchemy

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import state_folder
from appview_pipeline.store.embedded.state_folder import StateFolder
from appview_pipeline_tests.support.embedded_server import IS_ROOT, attach, new_state, processes, query
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@pytest.mark.parametrize("name", ["deep" * 30, "we, are 100% 'odd' & \"so\" + on"])
def test_state_folder_whose_path_suits_no_socket(name: str) -> None:
    with new_state(name) as state:
        with attach(state) as pg:
            assert query(pg.url(), "SELECT 1") == 1
            with sqlalchemy.create_engine(pg.url()).connect() as connection:
                assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "appview"
            assert pg.socket_dir.stat().st_mode & 0o777 == 0o700
        wait_for(lambda: not processes(state))
        if not pg.socket_dir.is_relative_to(state):
            pg.socket_dir.rmdir()  # and nothing is left in it


def test_default_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "checkout/appview_pipeline/store/embedded/state_folder.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(state_folder, "__file__", str(module))
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    root, user = Path("/var/lib/appview-pipeline"), Path("/xdg/appview-pipeline")
    assert state_folder.default_state_dir() == (root if IS_ROOT else user)
    (tmp_path / "checkout/workspace.yaml").write_text("")
    if IS_ROOT:  # pytest's folders are closed to others, so the server's user could not reach it
        assert state_folder.default_state_dir().parent == root
        with new_state("checkout") as open_checkout:
            (open_checkout / "appview_pipeline/store/embedded").mkdir(parents=True)
            (open_checkout / "workspace.yaml").write_text("")
            monkeypatch.setattr(
                state_folder, "__file__", str(open_checkout / "appview_pipeline/store/embedded/state_folder.py")
            )
            assert state_folder.default_state_dir() == open_checkout / ".appview"
    else:
        assert state_folder.default_state_dir() == tmp_path / "checkout/.appview"


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
