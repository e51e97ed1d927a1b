"""The command line, as a person or a script calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appview_pipeline import __version__
from appview_pipeline.cli import cli
from appview_pipeline.operations.conditions import CONDITIONS
from appview_pipeline.store import migrate as migrations
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.session_lock import lock_key
from appview_pipeline.store.stream_lock import stream_lock_name
from appview_pipeline_tests.simulated_network.corpus import read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect, run_sql
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.ports import free_port
from appview_pipeline_tests.support.tables import assert_equal, dump, fresh_database, one, replayed, rows
from appview_pipeline_tests.support.waiting import wait_for


def environment(**given: str) -> dict[str, str]:
    mine = ("APPVIEW_", "DATABASE_URL", "RELAY_URL", "DB_POOL", "LOG_")
    return {**{key: text for key, text in os.environ.items() if not key.startswith(mine)}, **given}


def run(*arguments: str | Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The command with these arguments and variables, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "appview_pipeline.cli", *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment(**given),
        capture_output=True,
        text=True,
        timeout=240,  # a slow machine takes its time for each start
    )


def sentence(failed: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that a mistake ends in."""
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert last.endswith((".", "?")), last
    return last


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    path = tmp_path / "busy.frames"
    write_corpus(path, busy_frames(200))
    return path


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("migrate", "replay", "capture", "status"))
    assert __version__ in run("--version").stdout
    for wrong in (("replay",), ("nonsense",), ("replay", "x", "--batch-size", "0"), ("capture", "x")):
        failed = run(*wrong)
        assert failed.returncode == 2 and "Usage" in failed.stderr and "Traceback" not in failed.stderr


def test_the_version_names_the_schema_that_the_code_needs() -> None:
    shown = CliRunner().invoke(cli, ["--version"])
    assert shown.output == f"appview-pipeline {__version__}, schema {migrations.head()}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    shown = CliRunner().invoke(cli, ["completion", shell])
    assert shown.exit_code == 0 and "_APPVIEW_PIPELINE_COMPLETE" in shown.output


def test_what_a_shell_offers() -> None:
    asked = {"COMP_WORDS": "appview-pipeline priv", "COMP_CWORD": "1", "_APPVIEW_PIPELINE_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv[0] = 'appview-pipeline'; from appview_pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=environment(**asked),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "plain,privacy\n", done.stderr


def test_migrate_makes_an_empty_database_ready(server: EmbeddedPostgres, busy: Path) -> None:
    run_sql(server, "CREATE DATABASE cli_empty")
    url = server.url("cli_empty")
    try:
        # Somebody else's database is not touched without being asked.
        assert "migrate" in sentence(run("replay", busy, DATABASE_URL=url))
        assert one(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'bsky'") == 0
        for _ in range(2):
            done = run("migrate", DATABASE_URL=url)
            assert done.returncode == 0 and done.stdout == f"The schema is at version {migrations.head()}.\n"
        assert run("replay", busy, DATABASE_URL=url).returncode == 0
        assert one(url, "SELECT count(*) FROM bsky.post") > 0
    finally:
        run_sql(server, "DROP DATABASE cli_empty WITH (FORCE)")


def test_replay_ends_in_a_summary(database: Database, busy: Path) -> None:
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES ('wss://bsky.network', 77)")
    done = run("replay", busy, "--batch-size", "50", APPVIEW_DATABASE_URL=database.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "nothing but the summary is on standard output"
    summary = json.loads(done.stdout)
    assert summary.keys() >= {"frames", "events", "rejected", "seconds", "events_per_second"}
    assert (summary["frames"], summary["events"], summary["rejected"]) == (200, 200, 0)
    assert summary["seconds"] > 0
    assert summary["events_per_second"] == pytest.approx(200 / summary["seconds"], rel=0.05)
    assert "100%" in done.stderr and "Traceback" not in done.stderr
    assert rows(database.url, "SELECT relay, seq FROM pipeline.cursor") == [("wss://bsky.network", 77)]
    assert one(database.url, "SELECT count(*) FROM pipeline.batch") == 4
    before = dump(database.url)
    again = json.loads(run("replay", busy, APPVIEW_DATABASE_URL=database.url).stdout.splitlines()[-1])
    assert again["frames"] == 200
    assert_equal(dump(database.url), before)


def test_replay_counts_what_it_rejects(database: Database, tmp_path: Path) -> None:
    ann = Person(Stream(), "ann")
    path = tmp_path / "some.frames.zst"
    write_corpus(path, [ann.commit(post("a", "x")), b"\x00damaged", ann.commit(post("b", 5))])  # type: ignore[arg-type]
    summary = json.loads(run("replay", path, DATABASE_URL=database.url).stdout.splitlines()[-1])
    assert (summary["frames"], summary["events"], summary["rejected"]) == (3, 2, 2)


def test_capture_and_then_replay(
    database: Database, server: EmbeddedPostgres, template_database: str, tmp_path: Path
) -> None:
    frames = list(busy_frames(200))
    path = tmp_path / "captured.zst"
    with Relay(frames) as relay:
        done = run("capture", path, "--seconds", "2", "--cursor", "0", RELAY_URL=relay.url)
        assert relay.cursors == [0]
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["frames"], summary["first_seq"], summary["last_seq"], summary["gaps"]) == (200, 1, 200, [])
    assert list(read_corpus(path)) == frames
    assert run("replay", path, DATABASE_URL=database.url).returncode == 0
    with fresh_database(server, template_database) as want:
        whole = tmp_path / "whole.frames"
        write_corpus(whole, frames)
        replayed(want, whole, 200)
        assert_equal(dump(database.url), dump(want.url))


def test_status(database: Database, busy: Path) -> None:
    empty = run("status", DATABASE_URL=database.url)
    assert empty.returncode == 0 and "none yet" in empty.stdout
    assert empty.stdout.startswith("FAILURE   connected: Nothing was applied from "), "what is wrong comes first"
    assert "what to do: docs/operations.md#connected\n" in empty.stdout
    replayed(database, busy, 100)
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES ('wss://relay.example', 1234)")
    rows(
        database.url,
        "INSERT INTO pipeline.batch (source, last_seq, events, rejected, relay_time) "
        "VALUES ('wss://relay.example', 1234, 60, 2, now() - interval '5 seconds')",
    )
    rows(database.url, "INSERT INTO pipeline.gap (kind, relay) VALUES ('sequence', 'wss://relay.example')")
    shown = run("status", DATABASE_URL=database.url)
    states = dict(rows(database.url, "SELECT sync_state, count(*) FROM pipeline.repo GROUP BY sync_state"))
    assert f"Repositories  {sum(states.values())} (" in shown.stdout
    assert "wss://relay.example" in shown.stdout and "1,234" in shown.stdout and "sequence 1" in shown.stdout
    status = run("status", "--json", DATABASE_URL=database.url)
    assert status.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(status.stdout)
    (stream,) = found["streams"]
    assert (stream["relay"], stream["seq"], stream["events_last_hour"]) == ("wss://relay.example", 1234, 60)
    assert stream["rejected_last_hour"] == 2 and 4 < stream["lag_seconds"] < 60
    assert found["schema_version"] == migrations.head()
    assert found["repositories"] == one(database.url, "SELECT count(*) FROM pipeline.repo")
    assert found["repository_states"] == states
    assert found["gaps"] == {"sequence": 1}
    assert found["ignored_collections"]
    failing = {it["name"]: it for it in found["checks_that_fail"]}
    assert failing["connected"]["severity"] == "error" and "gaps_close" not in failing


def test_check(database: Database) -> None:
    """Its exit code is for monitors: 1 where a check of severity error fails."""
    failed = run("check", DATABASE_URL=database.url)
    assert failed.returncode == 1 and failed.stdout.startswith("FAILURE   connected: ")
    assert "\nWARNING   keeps_up: " in failed.stdout and "\nok        gaps_close: No gap is open" in failed.stdout
    as_json = run("check", "--json", DATABASE_URL=database.url)
    assert as_json.returncode == 1 and as_json.stdout.count("\n") == 1
    checks = {it["name"]: it for it in json.loads(as_json.stdout)["checks"]}
    assert len(checks) == len(CONDITIONS) and checks["connections_left"]["numbers"]["connections"] >= 1
    rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES ('wss://bsky.network', 1)")
    rows(database.url, "INSERT INTO pipeline.identity_batch (seconds) VALUES (1)")
    rows(database.url, "INSERT INTO pipeline.fetch_batch (seconds, asked, found, invalid) VALUES (1, 50, 10, 40)")
    with database.dedicated("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key(stream_lock_name("wss://bsky.network", "0/1")),))
        warned = run("check", DATABASE_URL=database.url, APPVIEW_LABELERS="none")
    assert warned.returncode == 0 and warned.stdout.startswith("WARNING   fetches_succeed: "), warned.stdout


def test_an_unreachable_database_is_one_sentence(busy: Path) -> None:
    port = free_port()
    url = f"postgresql://somebody:hush@127.0.0.1:{port}/appview"
    for command in (("status",), ("migrate",), ("replay", busy)):
        failed = run(*command, DATABASE_URL=url)
        assert str(port) in sentence(failed)
        assert "hush" not in failed.stderr + failed.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"APPVIEW_BATCH_EVENTS": "lots"}, "APPVIEW_BATCH_EVENTS='lots'"),
        ({"DATABASE_URL": "sqlite:///x"}, "postgresql://"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL='LOUD'"),
        ({"RELAY_URL": "ftp://x"}, "RELAY_URL"),
    ],
)
def test_a_bad_setting_is_one_sentence(given: dict[str, str], words: str) -> None:
    assert words in sentence(run("status", **given))


def test_files_that_are_no_captures(database: Database, busy: Path, tmp_path: Path) -> None:
    """One sentence each; of a torn file what was whole is indexed."""
    whole = busy.read_bytes()
    torn, noise = tmp_path / "torn.frames", tmp_path / "noise.frames"
    torn.write_bytes(whole[:-10])
    noise.write_bytes(os.urandom(3) + b"\xff" + os.urandom(50))
    for path, words in ((tmp_path / "absent", "can't be read"), (tmp_path, "can't be read"), (noise, "damaged")):
        failed = run("replay", path, DATABASE_URL=database.url)
        assert words in sentence(failed) and str(path) in sentence(failed)
    failed = run("replay", torn, "--batch-size", "10", DATABASE_URL=database.url)
    assert "truncated after 199 whole frames" in sentence(failed)
    assert one(database.url, "SELECT sum(frames) FROM pipeline.batch") >= 190


def test_capture_from_nobody(tmp_path: Path) -> None:
    port = free_port()
    failed = run("capture", tmp_path / "x", "--seconds", "1", RELAY_URL=f"ws://127.0.0.1:{port}")
    assert str(port) in sentence(failed)
    assert list(tmp_path.iterdir()) == []
    with Relay() as relay:
        failed = run("capture", tmp_path / "absent" / "x", "--seconds", "1", RELAY_URL=relay.url)
        assert "absent" in sentence(failed)


def test_an_interrupt_says_so_and_what_is_committed_stays(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "long.frames"
    write_corpus(path, busy_frames(1_500))
    process = subprocess.Popen(
        [sys.executable, "-m", "appview_pipeline.cli", "replay", str(path), "--batch-size", "5"],
        cwd=CHECKOUT,
        env=environment(DATABASE_URL=database.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with connect(database.url) as holder, holder.cursor() as cursor:
        # In the midst of a batch, on the slowest machine, too: it waits for a lock of ours while the signal comes.
        wait_for(lambda: one(database.url, "SELECT count(*) FROM pipeline.batch") >= 3)
        cursor.execute("LOCK pipeline.batch IN EXCLUSIVE MODE")
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pipeline.batch'::regclass "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        wait_for(lambda: one(database.url, waiting))
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted after" in err and "Traceback" not in err
    assert out == ""
    assert one(database.url, "SELECT sum(frames) % 5 FROM pipeline.batch") == 0


def test_logs_go_to_standard_error_in_the_format_asked_for(database: Database, busy: Path) -> None:
    rows(database.url, "ALTER TABLE bsky.post ADD CONSTRAINT none CHECK (false)")
    done = run("replay", busy, DATABASE_URL=database.url, LOG_FORMAT="json")
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if '{"time"' in line]
    # Each begins a line, also beside the progress bar: a collector of logs reads all of them.
    assert lines and {json.loads(line)["service"] for line in lines} == {"replay"}
    quiet = run("replay", busy, DATABASE_URL=database.url, LOG_LEVEL="ERROR", LOG_FORMAT="json")
    assert not [line for line in quiet.stderr.replace("\r", "\n").splitlines() if '{"time"' in line]


def test_commands_without_arguments_explain_themselves() -> None:
    for command in cli.commands:
        shown = CliRunner().invoke(cli, [command, "--help"])
        assert shown.exit_code == 0 and len(shown.output.splitlines()) > 4
