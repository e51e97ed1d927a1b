"""`appview-pipeline backfill --car FILE --did DID`: a repository from a file, without the network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from coincurve import PrivateKey

from appview_pipeline.backfill.car_file import NO_KEY, VALID
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, create, did_of, post
from appview_pipeline_tests.support.keys import did_key, save_key
from appview_pipeline_tests.support.tables import Dump, differences, dump, one, record_keys

Command = Callable[..., Result]
SECRET = PrivateKey(hashlib.sha256(b"ann").digest())
OTHER = PrivateKey(hashlib.sha256(b"somebody else").digest())


@pytest.fixture
def ann(stream: Stream) -> Person:
    person = Person(stream, "ann")
    person.commit(
        post("a", "1"), post("b", "2"), create("app.bsky.feed.post/bad", {"text": 1}), create("com.example.x/a", {})
    )
    return person


@pytest.fixture
def file(ann: Person, tmp_path: Path) -> Path:
    path = tmp_path / "ann.car"
    path.write_bytes(ann.repository.export())
    return path


@pytest.fixture
def command(database: Database, monkeypatch: pytest.MonkeyPatch, restored_logging: None) -> Command:
    """Runs the command in this process."""
    monkeypatch.setattr("appview_pipeline.ingest.interpreter.favour_throughput", lambda: None)

    def run(*arguments: str | Path, **options: Any) -> Result:
        monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url.replace("+psycopg2", ""))
        return CliRunner().invoke(cli, ["backfill", *map(str, arguments)], **options)

    return run


def summary(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def mistake(result: Result) -> str:
    """The sentence that it ends in."""
    assert isinstance(result.exception, OperatorError), result.output
    return str(result.exception)


def test_a_file_is_indexed_and_again_it_changes_nothing(
    database: Database, command: Command, ann: Person, file: Path
) -> None:
    found = summary(command("--car", file, "--did", ann.did))
    assert (found["did"], found["rev"], found["signature"]) == (ann.did, ann.repository.rev, NO_KEY)
    assert found["size"] == file.stat().st_size
    assert found["counts"] == {
        **dict.fromkeys(("updates", "deletes", "same", "newer", "old"), 0),
        "records": 3,
        "creates": 2,
        "refused": 1,
        "ignored": 1,
    }
    assert found["rejected"] == {"lexicon": 1}
    assert record_keys(database) == {"a", "b"}
    before: Dump = dump(database.url)
    assert summary(command("--car", file, "--did", ann.did))["counts"]["same"] == 2
    assert differences(dump(database.url), before) == []


def test_the_signature_is_checked_with_the_key_that_is_known_or_given(
    database: Database, command: Command, ann: Person, file: Path
) -> None:
    assert summary(command("--car", file, "--did", ann.did, "--key", did_key(SECRET)))["signature"] == VALID
    said = mistake(command("--car", file, "--did", ann.did, "--key", did_key(OTHER)))
    assert "is not signed with the key that was given" in said
    assert "can't be used" in mistake(command("--car", file, "--did", ann.did, "--key", "did:key:zQ3"))
    save_key(database, ann.did, SECRET)
    assert summary(command("--car", file, "--did", ann.did))["signature"] == VALID
    save_key(database, ann.did, OTHER)
    assert "the key that is stored" in mistake(command("--car", file, "--did", ann.did))
    assert summary(command("--car", file, "--did", ann.did, "--key", did_key(SECRET)))["signature"] == VALID


def test_a_file_that_is_no_export_of_the_account_is_one_sentence(
    database: Database, command: Command, ann: Person, file: Path, tmp_path: Path
) -> None:
    assert "can't be read" in mistake(command("--car", tmp_path / "nothing.car", "--did", ann.did))
    assert "another account" in mistake(command("--car", file, "--did", did_of("bob")))
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    assert "cut short" in mistake(command("--car", file, "--did", ann.did))
    assert "neither a DID nor a handle" in mistake(command("--car", file, "--did", "nonsense"))
    assert "give its DID" in mistake(command("--car", file, "--did", "nobody.example.com"))
    file.write_bytes(b"")
    assert "is empty" in mistake(command("--car", file, "--did", ann.did))
    assert one(database.url, "SELECT count(*) FROM pipeline.repo") == 0, "nothing was begun"
    stored = ann.repository.get("app.bsky.feed.post/b")
    assert stored is not None
    file.write_bytes(whole.replace(stored[1], stored[1][:-1] + b"x"))
    assert "does not hash" in mistake(command("--car", file, "--did", ann.did))
    assert one(database.url, "SELECT sync_state FROM pipeline.repo") == "desynchronized"
    assert record_keys(database) == {"a"}, "the others are proved all the same"


def test_an_older_file_than_what_was_applied_is_refused(
    command: Command, ann: Person, file: Path, tmp_path: Path
) -> None:
    ann.commit(post("c", "1"))
    newer = tmp_path / "newer.car"
    newer.write_bytes(ann.repository.export())
    summary(command("--car", newer, "--did", ann.did))
    assert "is indexed as of rev" in mistake(command("--car", file, "--did", ann.did))


def test_what_the_stream_has_brought_since_the_file_stays(
    database: Database, command: Command, ann: Person, file: Path
) -> None:
    index(database, ann.commit(post("c", "1")))
    found = summary(command("--car", file, "--did", ann.did))
    assert (found["counts"]["creates"], found["counts"]["newer"]) == (2, 1)
    assert record_keys(database) == {"a", "b", "c"}
    assert found["state"] == "synchronized"


def test_of_the_last_days(database: Database, command: Command, ann: Person, file: Path) -> None:
    found = summary(command("--car", file, "--did", ann.did, "--days", "3"))
    assert (found["counts"]["creates"], found["counts"]["old"]) == (0, 2)
    assert one(database.url, "SELECT is_partial FROM pipeline.repo") is True


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("did:plc:x", "--all"),
        ("--car", "x.car"),
        ("--did", "did:plc:x"),
        ("--car", "x.car", "--did", "did:plc:x", "--all"),
        ("did:plc:x", "--key", "did:key:x"),
        ("--all", "--days", "0"),
        ("--days", "3", "--did", "did:plc:x"),
    ],
)
def test_what_does_not_fit_together_is_said(command: Command, arguments: tuple[str, ...]) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.output
