"""Backups of the embedded database: taken while a consumer writes, restored, and carried on from their cursor."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from appview_pipeline import logs
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.embedded.backup import back_up, check_backup
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.stream_server import frame_seq
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.consumers import Consumer, cursor, is_past, until
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.embedded_server import new_state
from appview_pipeline_tests.support.tables import assert_equal, dump, one

FRAMES = 300


@pytest.fixture
def state() -> Iterator[Path]:
    with new_state() as path:
        yield path


def opened(state: Path) -> Database:
    return open_database(Settings(state_dir=state))


def consumed(database: Database, relay: Relay, seq: int) -> None:
    """A consumer reads the relay until its cursor has come to `seq`."""
    consumer = Consumer(database.url, relay.url)
    try:
        until(lambda: (cursor(database, relay.url) or 0) >= seq, consumer)
        consumer.end()
    finally:
        consumer.clean_up()


@pytest.mark.slow
def test_a_backup_of_a_running_stream_goes_on_from_its_cursor(state: Path) -> None:
    frames = list(busy_frames(FRAMES))
    last = frame_seq(frames[-1])
    assert last is not None
    backup = state.parent / "backup"
    with Relay(frames[:100]) as relay:
        more, rest = iter(frames[100:-50]), frames[-50:]

        def publish(done: int, total: int) -> None:
            """Something happens after every few files."""
            if done % 4 == 0:
                relay.publish(list(islice(more, 2)))

        database = opened(state)
        try:
            consumer = Consumer(database.url, relay.url)
            try:
                until(lambda: is_past(database, relay.url, 0), consumer)
                made = back_up(Settings(state_dir=state), backup, progress=publish)
                relay.publish([*more, *rest])
                until(lambda: (cursor(database, relay.url) or 0) >= last, consumer)
                consumer.end()
            finally:
                consumer.clean_up()
            assert one(database.url, "SELECT count(*) FROM pg_replication_slots") == 0
            want = dump(database.url)
        finally:
            database.close()
        assert made.bytes > made.wal_bytes > 0 and made.files > 500
        ((_, _, at_backup),) = made.cursors
        assert 0 < at_backup < last
        found = check_backup(backup, Settings())
        assert found.cursors[0][2] >= at_backup and found.rows["bsky.record"] > 0
        # As docs/backup.md says: a copy of its folder is a state folder.
        with new_state() as restored:
            subprocess.run(["cp", "-a", backup / "state", restored], check=True)
            database = opened(restored)
            try:
                assert at_backup <= (cursor(database, relay.url) or 0) < last
                consumed(database, relay, last)
                assert_equal(dump(database.url), want)
            finally:
                database.close()


def test_the_command(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda settings, service: None)
    database = opened(state)
    run(database.url, "UPDATE pipeline.schema_version SET version_num = '0024'")
    database.close()
    target = state.parent / "a" / "backup"
    environment = {"APPVIEW_STATE_DIR": str(state), "DATABASE_URL": "", "APPVIEW_DATABASE_URL": ""}
    done = CliRunner().invoke(cli, ["backup", str(target), "--check"], env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (
        summary["checked"]["rows"] > 10
        and summary["schema_version"] == json.loads((target / "backup.json").read_text())["schema_version"] == "0024"
    )
    assert sorted(path.name for path in target.parent.iterdir()) == ["backup"]
    again = CliRunner().invoke(cli, ["backup", str(target)], env=environment)
    assert isinstance(again.exception, OperatorError) and "is there already" in str(again.exception)
    with pytest.raises(OperatorError, match="is no backup"):
        check_backup(state, Settings())
    # Damage is found.
    largest = max((target / "state" / "pgdata" / "base").rglob("*"), key=lambda path: path.stat().st_size)
    shutil.rmtree(largest.parent)
    with pytest.raises(OperatorError):
        check_backup(target, Settings())


def test_one_without_its_log_is_none(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files may go while they are copied; without all of the log the copy is worth nothing."""
    opened(state).close()
    copyfile = shutil.copyfile

    def lose_the_log(source: Path, target: Path) -> None:
        if source.parent.name == "pg_wal":
            raise FileNotFoundError(2, "No such file or directory", str(source))
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", lose_the_log)
    with pytest.raises(OperatorError, match="could not be written"):
        back_up(Settings(state_dir=state), state.parent / "a" / "backup")
    assert list((state.parent / "a").iterdir()) == []


def test_a_database_of_ones_own_is_for_others_programs(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="pg_basebackup"):
        back_up(Settings(database_url=database_url), tmp_path / "backup")
