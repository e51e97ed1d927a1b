"""The import of PLC exports: the same table whatever the order, and lines that can't be used."""

from __future__ import annotations

import gzip
import itertools
import logging
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appview_pipeline import backoff
from appview_pipeline.backoff import Backoff
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.identity import plc_import
from appview_pipeline.identity.dids import resolve_did
from appview_pipeline.identity.documents import parse_document
from appview_pipeline.identity.export_file import MAX_LINE_BYTES, ExportFile
from appview_pipeline.identity.plc_import import ImportSummary, import_export
from appview_pipeline.identity.plc_operations import document_of
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.settings import load as load_settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Busy
from appview_pipeline.store.identities import save, take
from appview_pipeline.store.identity_import import ImportCounts, ImportedDocument, import_documents
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.plc_export import Account, Directory, Line, signed, written
from appview_pipeline_tests.support.resolution import Script
from appview_pipeline_tests.support.tables import Fresh, one, rows
from appview_pipeline_tests.support.waiting import wait_for

COLUMNS = (
    "did, state, source, doc, pds, signing_key, labeler, labeler_key, claimed_handle, handle, error, "
    "resolved_at::text, next_check_at::text, queue, attempts"
)


def load(database: Database, content: bytes, folder: Path, **options: Any) -> ImportSummary:
    path = folder / "export.jsonl"
    path.write_bytes(content)
    return import_export(Settings(), database, path, **options)


def table(database: Database) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row for row in rows(database.url, f"SELECT {COLUMNS} FROM pipeline.identity")}


def expected(lines: list[Line]) -> dict[str, tuple[str | None, str | None, str]]:
    """What each account's last operation that was not undone says: handle, PDS, state."""
    found: dict[str, tuple[str | None, str | None, str]] = {}
    for line in sorted(lines, key=lambda line: line["createdAt"]):
        if not line["nullified"]:
            value = document_of(line["did"], line["operation"])
            if value is None:
                found[line["did"]] = (None, None, "tombstoned")
            else:
                document = parse_document(line["did"], value)
                found[line["did"]] = (document.handle, document.pds, "found")
    return found


def stored(database: Database) -> dict[str, tuple[str | None, str | None, str]]:
    return {
        did: (handle, pds, state)
        for did, handle, pds, state in rows(
            database.url, "SELECT did, claimed_handle, pds, state FROM pipeline.identity"
        )
    }


@pytest.fixture(scope="module")
def network() -> list[Line]:
    """Accounts that change, are given up, are recovered, and are old."""
    directory = Directory()
    accounts = [Account(directory, f"account{number}", legacy=number % 5 == 0) for number in range(20)]
    draw = random.Random(7)
    for step in range(40):
        account = draw.choice(accounts)
        if account.own[-1]["operation"]["type"] == "plc_tombstone":
            continue
        account.update(f"{account.name}-{step}", draw.choice(["https://pds.test", "https://other.test"]))
    accounts[1].tombstone()
    accounts[2].tombstone()
    accounts[2].undo("recovered")
    accounts[3].update("stolen")
    accounts[3].undo("rescued")
    return directory.lines


def test_the_network_has_what_is_tested(network: list[Line]) -> None:
    assert {line["operation"]["type"] for line in network} == {"create", "plc_operation", "plc_tombstone"}
    assert 2 <= sum(line["nullified"] for line in network) < 10
    assert {state for _, _, state in expected(network).values()} == {"found", "tombstoned"}


def test_an_export_is_stored(database: Database, network: list[Line], tmp_path: Path) -> None:
    summary = load(database, written(network), tmp_path)
    assert stored(database) == expected(network)
    assert (summary.lines, summary.bad_lines, summary.accounts, summary.added) == (len(network), 0, 20, 20)
    assert (summary.nullified, summary.changed, summary.excluded) == (sum(it["nullified"] for it in network), 0, 0)
    last = next(line for line in reversed(network) if not line["nullified"])
    row = rows(
        database.url,
        "SELECT source, doc, handle, queue, next_check_at, resolved_at = %s FROM pipeline.identity WHERE did = %s",
        last["createdAt"],
        last["did"],
    )
    # Claimed, not verified, and as old as the operation. Nobody asks for an account that is not indexed.
    assert row == [("import", document_of(last["did"], last["operation"]), None, None, None, True)]
    assert one(database.url, "SELECT min(error) FROM pipeline.identity WHERE state = 'tombstoned'").startswith(
        "the DID"
    )
    again = load(database, written(network), tmp_path)
    assert (again.accounts, again.added, again.changed) == (20, 0, 0)


def test_logs_of_others_are_stored(database: Database, conformance: Path, tmp_path: Path) -> None:
    logs = [orjson.loads(path.read_bytes()) for path in sorted((conformance / "plc").rglob("*.json"))]
    lines = [line for log in logs for line in log]
    random.Random(1).shuffle(lines)
    load(database, written(lines), tmp_path)
    assert len(stored(database)) > 10
    assert stored(database) == expected(lines)


@pytest.fixture(scope="module")
def own_database(fresh: Fresh) -> Iterator[Database]:
    with fresh() as made:
        yield made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_the_order_of_lines_and_files_does_not_matter(
    own_database: Database, network: list[Line], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Lines in any order, in any number of files, some of them in several, and chunks of any size."""
    seed = data.draw(st.integers(0, 2**32))
    files = data.draw(st.integers(1, 4))
    chunk = data.draw(st.sampled_from([1, 3, 10, 1_000]))
    draw = random.Random(seed)
    lines = network + draw.sample(network, 10)
    draw.shuffle(lines)
    cuts = [0, *sorted(draw.sample(range(len(lines)), files - 1)), len(lines)]
    folder = tmp_path_factory.mktemp("exports")
    rows(own_database.url, "TRUNCATE pipeline.identity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plc_import, "CHUNK_LINES", 1_000)
        load(own_database, written(network), folder)
        whole = table(own_database)
        rows(own_database.url, "TRUNCATE pipeline.identity")
        patch.setattr(plc_import, "CHUNK_LINES", chunk)
        for begin, end in itertools.pairwise(cuts):
            load(own_database, written(lines[begin:end]), folder)
    assert table(own_database) == whole


def test_operations_of_the_same_moment_end_alike_in_any_order(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    account = Account(directory, "twice")
    account.update("b")["createdAt"] = account.own[0]["createdAt"]
    found = []
    for lines in (directory.lines, directory.lines[::-1]):
        rows(database.url, "TRUNCATE pipeline.identity")
        load(database, written(lines), tmp_path)
        found.append(table(database))
        rows(database.url, "TRUNCATE pipeline.identity")
        for line in lines:
            load(database, written([line]), tmp_path)
        found.append(table(database))
    assert found[0] == found[1] == found[2] == found[3]


def test_what_was_resolved_later_stays(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    later, earlier, missing = (Account(directory, name) for name in ("later", "earlier", "missing"))
    for account in (later, earlier, missing):
        account.update(f"{account.name}-new")
    for account, resolved_at, state in (
        (later, "2024-06-01", "found"),
        (earlier, "2023-06-01", "found"),
        (missing, "2023-06-01", "not found"),
    ):
        rows(
            database.url,
            "INSERT INTO pipeline.identity "
            "(did, state, source, claimed_handle, handle, handle_source, error, resolved_at) "
            "VALUES (%s, %s, 'plc', 'resolved.test', 'resolved.test', 'dns', 'some reason', %s)",
            account.did,
            state,
            resolved_at,
        )
    before = table(database)
    summary = load(database, written(directory.lines), tmp_path)
    after = table(database)
    assert (summary.accounts, summary.added, summary.changed) == (3, 0, 2)
    assert after[later.did] == before[later.did]
    assert {it: stored(database)[it][0] for it in (earlier.did, missing.did)} == {
        earlier.did: "earlier-new.test",
        missing.did: "missing-new.test",
    }
    # The handle that was verified is shown until it is looked up again, for which the accounts are queued.
    assert rows(
        database.url,
        "SELECT DISTINCT handle, state, error, queue, wanted_at <= now() "
        "FROM pipeline.identity WHERE source = 'import'",
    ) == [("resolved.test", "found", None, "refresh", True)]


def test_indexed_accounts_are_queued_and_what_readers_see_is_not_touched(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    indexed, queued, other = (Account(directory, name) for name in ("indexed", "queued", "other"))
    for account in (indexed, queued):
        rows(database.url, 'INSERT INTO bsky.actor (did, "indexedAt") VALUES (%s, %s)', account.did, "2024-01-01")
    rows(
        database.url,
        "INSERT INTO pipeline.identity (did, queue, wanted_at, attempts, error) "
        "VALUES (%s, 'retry', now() + interval '1 hour', 3, 'it did not answer')",
        queued.did,
    )
    actors = rows(database.url, "SELECT * FROM bsky.actor ORDER BY did")
    load(database, written(directory.lines), tmp_path)
    found = {
        did: (queue, attempts)
        for did, queue, attempts in rows(database.url, "SELECT did, queue, attempts FROM pipeline.identity")
    }
    assert found == {indexed.did: ("refresh", 0), queued.did: ("retry", 3), other.did: (None, 0)}
    assert rows(database.url, "SELECT * FROM bsky.actor ORDER BY did") == actors


def test_an_imported_document_stays_as_old_as_it_is_when_its_handle_is_verified(
    database: Database, tmp_path: Path
) -> None:
    directory = Directory()
    account = Account(directory, "indexed")
    rows(database.url, 'INSERT INTO bsky.actor (did, "indexedAt") VALUES (%s, %s)', account.did, "2024-01-01")
    load(database, written(directory.lines), tmp_path)
    script = Script()
    with database.connect("writer") as connection:
        (wanted,) = take(connection, "refresh", 10, 60.0)
        settled = script.attempt(wanted).settled
        assert settled is not None and script.asked == []
        save(connection, [settled], usable_seconds=86_400.0)
    found = "SELECT handle, source, resolved_at = %s, queue, next_check_at > now() FROM pipeline.identity"
    at = account.own[0]["createdAt"]
    assert rows(database.url, found, at) == [("indexed.test", "import", True, None, True)]
    assert rows(database.url, "SELECT handle FROM bsky.actor") == [("indexed.test",)]
    # A newer operation still counts.
    account.update("renamed")
    assert load(database, written(directory.lines), tmp_path).changed == 1
    assert stored(database)[account.did] == ("renamed.test", "https://pds.test", "found")


def test_nothing_is_stored_of_accounts_that_are_excluded(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    forbidding, deleted, allowing = (Account(directory, name) for name in ("forbidding", "deleted", "allowing"))
    one(database.url, "SELECT pipeline.forbid_data_collection(%s)", forbidding.did)
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", deleted.did)
    rows(database.url, "INSERT INTO pipeline.actor_setting (did) VALUES (%s)", allowing.did)
    summary = load(database, written(directory.lines), tmp_path)
    assert stored(database).keys() == {allowing.did}
    assert (summary.accounts, summary.excluded, summary.added) == (3, 2, 1)


def test_an_account_is_excluded_before_a_part_of_an_import_or_after_it(database: Database) -> None:
    document = ImportedDocument("did:plc:" + "a" * 24, "2024-01-01T00:00:00Z", doc="{}")
    forbid = "SELECT pipeline.forbid_data_collection(%s)"
    with ThreadPoolExecutor(1) as pool:
        with database.connect("maintenance") as connection:
            assert import_documents(connection, [document]).added == 1
            forbidding = pool.submit(one, database.url, forbid, document.did)
            wait_until_blocked(database)
        assert forbidding.result() is True
        assert stored(database).keys() == {document.did}

        rows(database.url, "DELETE FROM pipeline.identity")
        one(database.url, "SELECT pipeline.allow_data_collection(%s)", document.did)
        rows(database.url, "DELETE FROM pipeline.identity")

        def imported() -> ImportCounts:
            with database.connect("maintenance") as connection:
                return import_documents(connection, [document])

        with connect(database.url) as connection, connection.cursor() as cursor:
            cursor.execute(forbid, (document.did,))
            importing = pool.submit(imported)
            wait_until_blocked(database)
            connection.commit()
        assert importing.result() == ImportCounts(accounts=1, excluded=1)
        assert stored(database) == {}


def test_excluding_an_account_and_an_import_of_it_do_not_deadlock(database: Database) -> None:
    """Both lock the account's row before the lock of all accounts."""
    document = ImportedDocument("did:plc:" + "a" * 24, "2024-01-01T00:00:00Z", doc="{}")
    rows(database.url, "INSERT INTO pipeline.identity (did) VALUES (%s)", document.did)
    locked = "SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: accounts without a repository'))"

    def imported() -> ImportCounts:
        with database.connect("maintenance") as connection:
            return import_documents(connection, [document])

    with ThreadPoolExecutor(1) as pool, connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline.identity SET next_check_at = NULL")  # as the trigger does
        importing = pool.submit(imported)
        wait_until_blocked(database)
        cursor.execute(locked)
        connection.commit()
        assert importing.result() == ImportCounts(accounts=1, changed=1)


def wait_until_blocked(database: Database) -> None:
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    wait_for(lambda: one(database.url, blocked) > 0)


# ----------------------------------------------------------------------------------------------------------------------
# Lines that can't be used


def test_bad_lines_are_counted_and_stop_nothing(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    good = Account(directory, "good").own[0]
    after = Account(directory, "after").own[0]
    bad = [
        (b"[]", "the line is no JSON object"),
        (b"<html>", "the line is not JSON"),
        (b'{"did": "\xff"}', "the line is not JSON"),
        (b'{"did": "\\ud800"}', "the line is not JSON"),
        (b"[" * 5_000 + b"]" * 5_000, "the line is not JSON"),
        (orjson.dumps({**good, "did": "did:web:good.test"}), "the line has no `did`"),
        (orjson.dumps({**good, "did": None}), "the line has no `did`"),
        (orjson.dumps({**good, "createdAt": "yesterday"}), "the line has no `createdAt`"),
        (orjson.dumps({**good, "createdAt": "0000-01-01T00:00:00Z"}), "the line has no `createdAt`"),
        (orjson.dumps({**good, "createdAt": "2999-01-01T00:00:00Z"}), "the line's `createdAt` is in the future"),
        (orjson.dumps({**good, "nullified": "no"}), "the line's `nullified`"),
        (orjson.dumps({**good, "operation": None}), "the operation is no JSON object"),
        (orjson.dumps({**good, "operation": {"type": "unheard"}}), "the operation is of a type that is not known"),
        (orjson.dumps({**good, "more": "x" * MAX_LINE_BYTES}), "the line has more than 100,000 bytes"),
        (b"x" * 3_000_000, "the line has more than 100,000 bytes"),
    ]
    content = b"\n".join([b"", *(line for line, _ in bad), b"", orjson.dumps(good), b"\r", b"", orjson.dumps(after)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plc_import, "MAX_EXAMPLES", 100)
        summary = load(database, content, tmp_path)
    assert stored(database).keys() == {good["did"], after["did"]}
    assert (summary.lines, summary.bad_lines) == (len(bad) + 2, len(bad))
    assert [it.line for it in summary.examples] == list(range(2, len(bad) + 2))
    assert [
        (it.reason, reason)
        for it, (_, reason) in zip(summary.examples, bad, strict=True)
        if not it.reason.startswith(reason)
    ] == []
    assert orjson.loads(orjson.dumps(summary.as_json()))["examples"][0]["line"] == 2


def test_of_many_bad_lines_the_first_are_shown(database: Database, tmp_path: Path) -> None:
    summary = load(database, b"{}\n" * 1_000, tmp_path)
    assert (summary.bad_lines, [it.line for it in summary.examples]) == (1_000, list(range(1, 11)))


def test_documents_that_can_not_be_stored_as_they_came(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    account = Account(directory, "odd")
    operation = account.own[0]["operation"]
    operation["alsoKnownAs"] = ["at://Odd.test.", "nul:\0", "long:" + "x" * 20_000]
    operation["services"]["\0"] = {"type": "\0", "endpoint": "\0"}
    summary = load(database, written(directory.lines), tmp_path)
    assert summary.bad_lines == 0
    assert stored(database) == {account.did: ("odd.test", "https://pds.test", "found")}
    doc = one(database.url, "SELECT doc FROM pipeline.identity")
    assert doc["alsoKnownAs"] == ["at://odd.test"] and len(doc["service"]) == 1


def test_lines_of_the_newer_format(database: Database, network: list[Line], tmp_path: Path) -> None:
    """It has numbers, and does not say what was undone."""
    newer = [
        {"type": "sequenced_op", "seq": number, **{key: value for key, value in line.items() if key != "nullified"}}
        for number, line in enumerate(network)
    ]
    load(database, written(newer), tmp_path)
    assert stored(database) == expected(network)


# ----------------------------------------------------------------------------------------------------------------------
# Verification


def test_valid_operations_are_verified(database: Database, network: list[Line], tmp_path: Path) -> None:
    summary = load(database, written(network), tmp_path, verify=True)
    assert (summary.bad_lines, summary.unverifiable) == (0, 0)
    assert summary.verified == sum(not line["nullified"] for line in network)
    assert stored(database) == expected(network)


def test_operations_that_are_not_valid_do_not_count(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    names = ("forged", "stranger", "renamed", "mixed", "alone")
    forged, stranger, renamed, mixed, alone = (Account(directory, name) for name in names)
    forged.update("stolen")["operation"]["alsoKnownAs"] = ["at://thief.test"]  # the CID is of what was signed
    stranger.update("stolen", key="stranger")
    renamed.own[0]["did"] = "did:plc:" + "a" * 24
    mixed.own.append(forged.own[0])
    mixed.update("mixed")
    without_first = [alone.update("alone-new"), alone.update("alone-newest")]
    lines = [line for line in directory.lines if line is not alone.own[0]]
    summary = load(database, written(lines), tmp_path, verify=True)
    assert [it.reason for it in summary.examples] == [
        "the first operation's hash is that of another DID",
        "the line's `cid` is not that of its operation",
        "the operation's signature is by none of the rotation keys that may sign it",
        "the operation follows one of another DID",
    ]
    assert (summary.verified, summary.unverifiable) == (4, 1)
    assert {handle for handle, _, _ in stored(database).values()} == {
        "forged.test",
        "stranger.test",
        "mixed.test",
        "alone-newest.test",
    }
    assert len(without_first) == 2


def test_the_rotation_keys_of_the_last_operations_are_remembered(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plc_import, "MAX_REMEMBERED", 4)
    directory = Directory()
    accounts = [Account(directory, f"account{number}") for number in range(6)]
    accounts[-1].update("x")
    accounts[0].update("y")
    summary = load(database, written(directory.lines), tmp_path, verify=True)
    assert (summary.verified, summary.unverifiable, summary.bad_lines) == (7, 1, 0)


def test_a_signature_with_another_spelling_is_not_valid(database: Database, tmp_path: Path) -> None:
    directory = Directory()
    account = Account(directory, "a")
    operation = {key: value for key, value in account.own[0]["operation"].items() if key != "sig"}
    padded = signed(operation, "server")
    padded["sig"] += "=="
    directory.lines.clear()
    directory.accept(account.did, padded)
    summary = load(database, written(directory.lines), tmp_path, verify=True)
    assert summary.bad_lines == 1 and stored(database) == {}


def test_an_import_says_what_resolution_says(database: Database, tmp_path: Path) -> None:
    with SimulatedNetwork(World(12, 5, start=1_790_000_000, pasts=())) as network:
        given = load_settings(network.environment())
        dids = [author.account.did for author in network.world.authors]
        network.happen(network.world.delete, dids[0])
        path = tmp_path / "export.jsonl"
        path.write_text("".join(f"{line}\n" for line in network.plc.export()))
        summary = import_export(given, database, path, verify=True)
        with Client(given) as client:
            found = {did: resolve_did(client, given, did) for did in dids}
    assert (summary.bad_lines, summary.unverifiable) == (0, 0) and summary.verified >= len(dids)
    columns = "did, state, error, doc, pds, signing_key, claimed_handle"
    for did, state, error, doc, *values in rows(database.url, f"SELECT {columns} FROM pipeline.identity"):
        resolution = found.pop(did)
        document = resolution.document
        assert (state, error) == (resolution.state, resolution.reason)
        assert doc == (resolution.json and orjson.loads(resolution.json))
        assert values == ([None] * 3 if document is None else [document.pds, document.signing_key, document.handle])
    assert found == {}


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_files_may_be_compressed(network: list[Line], tmp_path: Path) -> None:
    content = written(network)
    half = content.index(b"\n", len(content) // 2) - 5  # in the middle of a line
    zstd = zstandard.ZstdCompressor()
    for number, packed in enumerate(
        [
            content,
            content.rstrip(b"\n"),
            gzip.compress(content),
            gzip.compress(content[:half]) + gzip.compress(content[half:]) + b"\0" * 100,
            zstd.compress(content),
            zstd.compress(content[:half]) + zstd.compress(content[half:]),
        ]
    ):
        path = tmp_path / f"{number}"
        path.write_bytes(packed)
        with ExportFile(path) as file:
            assert list(file) == content.rstrip(b"\n").split(b"\n"), number
            assert (file.lines, file.consumed, file.size) == (len(network), len(packed), len(packed))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_of_a_damaged_file_what_comes_before_is_stored(
    database: Database,
    network: list[Line],
    tmp_path: Path,
    pack: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(plc_import, "CHUNK_LINES", 7)
    packed = pack(written(network[:10])) + pack(written(network))
    for content, word in ((packed[:-20], "truncated"), (packed + b"what is this?", "damaged")):
        rows(database.url, "TRUNCATE pipeline.identity")
        caplog.clear()
        with (
            pytest.raises(OperatorError, match=rf"export.jsonl is {word} .*after \d+ lines"),
            caplog.at_level("WARNING"),
        ):
            load(database, content, tmp_path)
        assert len(stored(database)) >= 10
        assert "continue with --skip-lines" in caplog.text


def test_an_import_goes_on_where_it_was_interrupted(
    database: Database,
    network: list[Line],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(plc_import, "CHUNK_LINES", 5)
    calls = []

    def interrupted(size: int) -> None:
        calls.append(size)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING):
        load(database, written(network), tmp_path, progress=interrupted)
    assert "continue with --skip-lines 20" in caplog.text
    before = len(stored(database))
    summary = load(database, written(network), tmp_path, skip_lines=20)
    assert (summary.skipped_lines, summary.lines) == (20, len(network) - 20)
    assert before > 0 and stored(database) == expected(network)


def test_an_import_gives_way_to_others(
    database: Database, network: list[Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([Busy("deadlock detected"), Busy("deadlock detected")])

    def busy(connection: Any, documents: Any) -> Any:
        for failure in failures:
            raise failure
        return import_documents(connection, documents)

    monkeypatch.setattr(plc_import, "import_documents", busy)
    monkeypatch.setattr(backoff, "rerun", lambda: Backoff(first=0.001, longest=0.001))
    assert load(database, written(network), tmp_path).retries == 2
    assert stored(database) == expected(network)
    failures = iter([Busy("deadlock detected")] * 100)
    with pytest.raises(OperatorError, match="did not take a part of the import"):
        load(database, written(network), tmp_path)


def test_a_file_that_is_not_there(database: Database, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="can't be read"):
        import_export(Settings(), database, tmp_path / "nothing")
    with pytest.raises(OperatorError, match="can't be read"):
        import_export(Settings(), database, tmp_path)


@pytest.mark.usefixtures("restored_logging")
def test_the_command_ends_in_a_summary(database: Database, network: list[Line], tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl.gz"
    path.write_bytes(gzip.compress(b"nonsense\n" + written(network)))
    environment = {"APPVIEW_DATABASE_URL": database.url.replace("+psycopg2", "")}
    done = CliRunner().invoke(cli, ["identity", "import", "--verify", "--skip-lines", "0", str(path)], env=environment)
    assert done.exit_code == 0, done.output
    summary = orjson.loads(done.stdout.splitlines()[-1])
    assert (summary["file"], summary["lines"], summary["bad_lines"]) == (str(path), len(network) + 1, 1)
    assert summary["verified"] > len(network) / 2 and summary["lines_per_second"] > 0
    assert [it["line"] for it in summary["examples"]] == [1]
    assert stored(database) == expected(network)
