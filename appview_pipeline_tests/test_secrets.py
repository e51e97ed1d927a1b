"""No password is ever shown: twenty forms of addresses, through every output that we have.

What can't be read at all is in test_addresses.py; here the addresses work, or their servers refuse us.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline import addresses, logs
from appview_pipeline import cli as command_line
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline.defs.firehose import tick as tick_module
from appview_pipeline.defs.firehose.sensor import firehose_sensor
from appview_pipeline.defs.firehose.tick import State
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.consumers import Consumer, until
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import rows

# Every piece of a password has `hush` in it. {folder}: the socket's, {name}: the database.
DATABASES = [
    "postgresql://postgres:hush@/{name}?host={folder}&port=5432",
    "postgresql+psycopg2://postgres:hush1%40hush2%2Fhush3@/{name}?host={folder}",
    "postgres://postgres:hush1:hush2?hush3#hush4@{folder}/{name}",
    "postgresql:///{name}?host={folder}&user=postgres&password=hush%26hush",
    "postgresql://postgres@{folder}/{name}?sslpassword=hush&password=hush",
    "postgresql://postgres:hush@127.0.0.1:1,{folder}:5432/{name}?target_session_attrs=any",
    "host={folder} user=postgres password=hush dbname={name}",
    "host={folder} user=postgres password='hush hush\\'hush' dbname='{name}' port=5432",
]
# {at}: the relay's host and port.
RELAYS = [
    "ws://user:hush@{at}",
    "ws://user:hush1%40hush2%2F@{at}/",
    "http://user:hush1@hush2@{at}/xrpc/com.atproto.sync.subscribeRepos?token=hush",
    "WS://hush@{at}",
    "ws://user:hush%20hush@{at}?hush#hush",
    "ws://:hush@{at}.",
]
UNREACHABLE = [
    "postgresql://user:hush@127.0.0.1:1/db",
    "postgresql://user:hush1%40hush2@127.0.0.1:1,127.0.0.1:2/db",
    "host=127.0.0.1 port=1 user=user password='hush hush' dbname=db",
    "postgresql://user:hush@/db?host=/nowhere&sslpassword=hush&port=1",
    "postgresql://user:hush@no-such-host.invalid/db?sslmode=require",
    "postgresql://user:hush@127.0.0.1:1/db?sslmode=hush",
]


pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from outside."""
    for name in [name for name in os.environ if name.startswith(("APPVIEW_", "DATABASE_URL", "RELAY_URL", "PG"))]:
        monkeypatch.delenv(name)


def filled(form: str, database: Database) -> str:
    parameters = addresses.database_address(database.url).parameters
    folder = parameters["host"] if form.startswith("host=") else parameters["host"].replace("/", "%2F")
    return form.format(folder=folder, name=parameters["dbname"])


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """All that the command line prints, as `main` would end, with the most talkative log."""
    monkeypatch.setattr(sys, "argv", ["appview-pipeline", *arguments])
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    try:
        command_line.main()
    except SystemExit as end:
        assert end.code in (0, 2), end.code
    except BaseException as error:  # as Python itself would show it
        sys.stderr.write("".join(traceback.format_exception(error)))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out + err


def quiet(text: str) -> str:
    assert "hush" not in text, text
    assert not re.search("aHVza|h1c2|odXNo", text), f"not as Base64 either: {text}"
    return text


@pytest.mark.parametrize("form", range(len(DATABASES)))
def test_what_the_commands_say_of_a_database(
    form: int, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", filled(DATABASES[form], database))
    found = json.loads(quiet(command(capsys, monkeypatch, "status", "--json")).splitlines()[0])
    name = addresses.database_address(database.url).database
    assert found["database"].startswith(f"database {name} on ")
    for arguments in (["status"], ["migrate"], ["dead-letters", "--json"], ["replay", str(tmp_path / "absent")]):
        quiet(command(capsys, monkeypatch, *arguments))
    settings = load()
    quiet(repr(settings) + str(vars(settings) | {"database_url": None}))
    stream = logging.StreamHandler()
    assert stream
    logs.configure(settings, "test")
    logs.log_start(settings, "test")
    _, err = capsys.readouterr()
    assert f"/{name}" in quiet(err)


@pytest.mark.parametrize("url", UNREACHABLE)
def test_what_is_said_of_a_database_that_cannot_be_reached(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", url)
    for arguments in (["status", "--json"], ["migrate"]):
        said = quiet(command(capsys, monkeypatch, *arguments).replace('invalid sslmode value: "hush"', ""))
        assert "database db on " in said or "not accepted" in said
    try:
        Database(url, Settings()).connect("reader").__enter__()
    except Exception as error:
        shown = "".join(traceback.format_exception(error)).replace('invalid sslmode value: "hush"', "")
        quiet("\n".join(line for line in shown.splitlines() if not line.startswith("    ")))


def arguments_of_processes() -> str:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def everything_in(database: Database) -> str:
    tables = rows(
        database.url,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('bsky', 'pipeline')",
    )
    return "\n".join(str(rows(database.url, f"SELECT t::text FROM {table} t")) for (table,) in tables)


@pytest.mark.parametrize("form", range(len(RELAYS)))
def test_what_a_consumer_says_stores_and_passes_on(form: int, database: Database) -> None:
    """Behind a relay that asks for the password, with a gap and a dead letter, of which both name their stream."""
    with Relay([Person(Stream(first_seq=500), "ann").commit(post("a", "x")), b"\x00damaged"]) as relay:
        url = RELAYS[form].format(at=f"localhost:{relay.port}") if form != 5 else f"ws://:hush@localhost.:{relay.port}"
        name, credentials = addresses.split_relay(url)
        assert credentials is not None
        relay.faults.authorization = addresses.basic_authorization(credentials)
        rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 20)", url)
        consumer = Consumer(filled(DATABASES[form], database), url, APPVIEW_LOG_LEVEL="DEBUG")
        try:
            until(lambda: rows(database.url, "SELECT seq FROM pipeline.cursor") == [(500,)], consumer)
            until(lambda: rows(database.url, "SELECT source FROM pipeline.dead_letter") == [(name,)], consumer)
            quiet(arguments_of_processes())
            consumer.end()
        finally:
            consumer.clean_up()
        assert name == f"ws://localhost:{relay.port}"
        assert rows(database.url, "SELECT relay FROM pipeline.cursor") == [(name,)]
        assert rows(database.url, "SELECT DISTINCT relay FROM pipeline.gap WHERE did IS NULL") == [(name,)]
        quiet(consumer.said)
        quiet(everything_in(database))


def test_what_dagster_receives(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tick with the real consumer: its reason, its log, and every byte of Dagster's own history."""
    with Relay([Person(Stream(), "ann").commit(post("a", "x")), b"\x00damaged"]) as relay:
        monkeypatch.setenv("APPVIEW_DATABASE_URL", filled(DATABASES[1], database))
        monkeypatch.setenv("APPVIEW_RELAY_URL", f"ws://user:hush1%40hush2@LocalHost:{relay.port}")
        monkeypatch.setenv("APPVIEW_START_CURSOR", "0")
        monkeypatch.setattr(leased_tick, "TICK_SECONDS", 6.0)
        monkeypatch.setattr(leased_tick, "REPORT_SECONDS", 1.0)
        monkeypatch.setattr(tick_module, "GROUPS_SECONDS", 0.0)
        state = State(consumer_process())
        monkeypatch.setattr(sensor_module, "_state", state)
        database_module.reopen()
        results: list[Any] = []
        try:
            with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
                for tick in ("1", "2"):
                    context = dg.build_sensor_context(instance, None, sensor_name="firehose_sensor")
                    context._log_key = ["__repository__", "firehose_sensor", tick]
                    results.append(firehose_sensor(context))
                    if rows(database.url, "SELECT 1 FROM pipeline.dead_letter"):
                        break
                event = instance.get_latest_materialization_event(dg.AssetKey("firehose"))
                assert event is not None
                quiet(repr(event))
                # A wrong one: the tick says what the relay answers.
                state.process.stop()
                relay.faults.authorization = "Basic other"
                context = dg.build_sensor_context(instance, None, sensor_name="firehose_sensor")
                context._log_key = ["__repository__", "firehose_sensor", "3"]
                results.append(firehose_sensor(context))
        finally:
            state.process.stop()
            database_module.reopen()
    quiet(repr(results))
    assert f"ws://localhost:{relay.port}" in repr(results)
    out, err = capsys.readouterr()
    quiet(out + err)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert kept and b"hush" not in kept
    quiet(everything_in(database))
