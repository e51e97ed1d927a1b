"""`identity show`: what a person sees of an account, and what happens where there is nothing to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appview_pipeline import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.identity import show
from appview_pipeline.identity.attempt import Questions
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import Document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Settled
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import one, rows

DID = "did:plc:ewvi7nxzyoun6zhxrh64oizp"
OTHER = "did:plc:z72i7hdynmk6r22z27h6tvur"
KEY = "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"


@pytest.fixture
def show_command(database: Database, monkeypatch: pytest.MonkeyPatch, restored_logging: None) -> Any:
    """Runs the command on the database of the test, in this process."""
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url.replace("+psycopg2", ""))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.cli, ["identity", "show", *arguments])

    return run


def resolve(database: Database, *settled: Settled) -> None:
    with database.connect("writer") as connection:
        identities.want(connection, [it.did for it in settled])
        taken = {it.did: it.asked_at for it in identities.claim(connection, [it.did for it in settled], 60.0)}
        known = [replace(it, asked_at=taken[it.did]) for it in settled]
        identities.save(connection, known, usable_seconds=86_400.0)


def found(did: str = DID, handle: str | None = "ann.test", **others: Any) -> Settled:
    values: dict[str, Any] = {
        "claimed_handle": handle,
        "handle": handle,
        "handle_source": "dns" if handle else None,
        "doc": json.dumps(document(did)),
        "pds": "https://pds.example",
        "signing_key": "did:key:z1",
    }
    return Settled(did, None, "found", "plc", 80_000.0, **(values | others))


def document(did: str = DID, **changes: Any) -> dict[str, Any]:
    key = {"id": "#atproto", "type": "Multikey", "publicKeyMultibase": KEY}
    pds = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.example"}
    return {"id": did, "alsoKnownAs": ["at://ann.test"], "verificationMethod": [key], "service": [pds], **changes}


def lines(result: Result) -> dict[str, str]:
    """The lines by their name."""
    assert result.exit_code == 0, result.output
    return {line[:14].strip(): line[14:] for line in result.output.splitlines()}


def test_what_is_known(database: Database, show_command: Any, stream: Stream) -> None:
    index(database, stream.frame("#identity", {"did": DID}), stream.account(DID, active=False, status="suspended"))
    resolve(database, found(labeler="https://labels.example", labeler_key="did:key:z2"))
    rows(database.url, """UPDATE bsky.actor SET "takedownRef" = 'REF-1'""")
    shown = lines(show_command(DID))
    assert shown["Handle"] == "ann.test, verified by DNS 0 s ago"
    assert shown["Document"] == "from the PLC directory, 0 s ago"
    assert (shown["PDS"], shown["Signing key"]) == ("https://pds.example", "did:key:z1")
    assert shown["Labels"] == "https://labels.example, signed by did:key:z2"
    assert shown["Hosting"].startswith("not active (suspended), says the relay, ")
    assert shown["Readers see"] == "ann.test, hidden: suspended, taken down here (REF-1)"
    assert shown["Resolution"] == "next refresh in 22 h"
    assert set(shown) == {"DID", "Handle", "Document", "PDS", "Signing key", "Labels", "Hosting", "Readers see"} | {
        "Resolution"
    }


@pytest.mark.parametrize("name", ["ann.test", "ANN.test", "@ann.test", f"at://{DID}", f" {DID} "])
def test_an_account_may_be_named_in_several_ways(database: Database, show_command: Any, name: str) -> None:
    resolve(database, found(handle="other.test", did=OTHER), found())
    assert lines(show_command(name))["DID"] == DID


def test_why_a_handle_is_not_verified(database: Database, show_command: Any) -> None:
    resolve(database, found(handle=None, claimed_handle="ann.test", handle_error="the name does not exist"))
    shown = lines(show_command("ann.test"))
    assert shown["Handle"] == "ann.test, not verified (checked 0 s ago): the name does not exist"
    assert shown["Readers see"] == "handle.invalid"
    resolve(database, found(), found(OTHER))
    assert lines(show_command(DID))["Handle"].endswith(f"not verified (checked 0 s ago): {OTHER} has this handle now")
    assert lines(show_command("ann.test"))["DID"] == OTHER


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"alsoKnownAs": ["at://Ann.test"]}, "the handle is written 'Ann.test', and read as ann.test"),
        ({"service": []}, "the document names no PDS that can be used (#atproto_pds)"),
        ({"service": document()["service"] * 2}, "the document has more than one service #atproto_pds: the first one"),
        (
            {"verificationMethod": [{"id": "#atproto", "type": "RsaKey", "publicKeyMultibase": KEY}]},
            "the key #atproto can't be used: verification method of the unknown type 'RsaKey'",
        ),
    ],
)
def test_what_is_wrong_with_a_document(
    database: Database, show_command: Any, changes: dict[str, Any], problem: str
) -> None:
    resolve(database, found(doc=json.dumps(document(**changes))))
    shown = show_command(DID)
    assert shown.exit_code == 0 and f"\nProblem       {problem}" in shown.output, shown.output


def test_what_keeps_an_account_waiting(database: Database, show_command: Any) -> None:
    with database.connect("writer") as connection:
        identities.want(connection, [DID])
        identities.claim(connection, [DID], 60.0)
        identities.postpone(
            connection, [identities.Postponed(DID, "it is not asked now", 40.0)], usable_seconds=86_400.0
        )
    rows(
        database.url,
        "INSERT INTO pipeline.upstream (host, breaker, open_until, reason) "
        "VALUES ('plc.directory', 'open', now() + interval '50 s', 'status 502'), ('pds.example', 'open', now(), 'x')",
    )
    result = show_command(DID)
    shown = lines(result)
    assert shown["Document"] == "none yet"
    assert shown["Resolution"].startswith("queued (tried again): in ")
    assert shown["Resolution"].endswith(" s, after 1 failed attempt: it is not asked now")
    assert shown["Server"].startswith("plc.directory is not asked for ")
    assert shown["Server"].endswith(" s: status 502")
    assert "pds.example" not in result.output


def test_opt_out_and_removal_are_shown(database: Database, show_command: Any, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(database, ann.commit(post("a", "x")))
    rows(database.url, "INSERT INTO pipeline.actor_setting VALUES (%s, true)", ann.did)
    rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'opt-out')", ann.did)
    shown = lines(show_command(ann.did))
    assert shown["Collection"] == "forbidden: nothing new of it is stored (docs/privacy.md)"
    assert shown["Removal"] == "a purge was asked for 0 s ago; not finished yet"
    rows(database.url, "DELETE FROM pipeline.identity")
    assert lines(show_command(ann.did))["Resolution"] == "never asked for"


def test_json_has_the_columns_of_the_table(database: Database, show_command: Any) -> None:
    resolve(database, found())
    result = show_command(DID, "--json")
    assert result.exit_code == 0
    (shown,) = [json.loads(line) for line in result.output.splitlines()]
    columns = rows(
        database.url,
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = 'pipeline' AND table_name = 'identity'",
    )
    assert sorted(shown) == sorted(name for (name,) in columns)
    assert shown["doc"] == document()
    assert (shown["did"], shown["handle"], shown["queue"], shown["attempts"]) == (DID, "ann.test", None, 0)
    assert shown["resolved_at"].startswith("20")


MISTAKES = {
    DID: "nothing is known of did:plc:ewvi7nxzyoun6zhxrh64oizp: with `--refresh` it is resolved.",
    "ann.test": "no account is known to have the handle ann.test: with `--refresh` it is looked up.",
    " @ann.test/": "no account is known to have the handle ann.test: with `--refresh` it is looked up.",
    "ann": "'ann' is neither a DID nor a handle.",
    "did:plc:": "'did:plc:' is not a DID: correct it.",
    "": "'' is neither a DID nor a handle.",
    "x" * 5_000: f"'{'x' * 300}' is neither a DID nor a handle.",
}


@pytest.mark.parametrize(("name", "sentence"), MISTAKES.items())
def test_what_is_not_there_is_said_in_a_sentence(show_command: Any, name: str, sentence: str) -> None:
    result = show_command(name)
    assert isinstance(result.exception, OperatorError)
    assert str(result.exception) == sentence


def test_a_handle_that_several_claim_needs_a_did(database: Database, show_command: Any) -> None:
    resolve(database, *(found(did, None, claimed_handle="ann.test") for did in (DID, OTHER)))
    assert f"several claim it ({DID}, {OTHER})" in str(show_command("ann.test").exception)


# ---- --refresh


class Network:
    """What the network answers."""

    def __init__(self) -> None:
        self.document: Document | None = None
        self.named = DID

    def resolve(self, did: str) -> Resolution:
        if self.document is None:
            return Resolution(did, None, "plc", reason="plc.directory gave no document: it did not answer within 15 s")
        return Resolution(did, "found", "plc", replace(self.document, did=did), "{}")

    def check(self, did: str, handle: str) -> HandleCheck:
        verified = did == self.named != ""
        return HandleCheck(
            handle, verified, self.named or None, "dns", None if verified else "the name does not exist", True
        )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()

    @contextmanager
    def questions(settings: Settings) -> Iterator[tuple[Questions, None]]:
        resolve, status = lambda did, _: made.resolve(did), lambda did, *_: PdsStatus(did, "active", is_final=True)
        yield Questions(resolve, made.check, status), None

    monkeypatch.setattr(show, "questions", questions)
    return made


DOCUMENT = Document(DID, "ann.test", "https://pds.example", "did:key:z1", None, None, ())


@pytest.mark.parametrize("name", [DID, "ann.test"])
def test_an_account_is_resolved_now(database: Database, show_command: Any, network: Network, name: str) -> None:
    network.document = DOCUMENT
    shown = lines(show_command(name, "--refresh"))
    assert (shown["DID"], shown["Handle"]) == (DID, "ann.test, verified by DNS 0 s ago")
    assert rows(database.url, "SELECT did, handle FROM bsky.actor") == [(DID, "ann.test")]
    network.document = replace(DOCUMENT, handle="new.test")
    assert lines(show_command(name, "--refresh"))["Handle"].startswith("new.test, verified")
    assert one(database.url, "SELECT queue FROM pipeline.identity") is None


def test_no_answer_leaves_what_is_known_and_ends_with_1(
    database: Database, show_command: Any, network: Network
) -> None:
    resolve(database, found())
    result = show_command(DID, "--refresh")
    assert result.exit_code == 1
    assert "ann.test, verified by DNS" in result.output
    assert result.output.rstrip().endswith(
        f"{DID} gave no answer: plc.directory gave no document: it did not answer within 15 s."
    )
    assert one(database.url, "SELECT queue FROM pipeline.identity") == "retry"


def test_a_handle_that_names_nobody(show_command: Any, network: Network) -> None:
    network.named = ""
    result = show_command("ann.test", "--refresh")
    assert str(result.exception) == "ann.test names no account: the name does not exist."


def test_an_account_that_is_excluded_is_not_resolved(database: Database, show_command: Any, network: Network) -> None:
    network.document = DOCUMENT
    rows(database.url, "INSERT INTO pipeline.actor_setting VALUES (%s, true)", DID)
    result = show_command(DID, "--refresh")
    assert result.exit_code == 1
    assert "nothing new of it may be stored" in result.output
    assert one(database.url, "SELECT count(*) FROM pipeline.identity") == 0
