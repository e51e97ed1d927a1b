"""`appview-pipeline import-predecessor`: what moves from the predecessor's database, once, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from appview_pipeline import logs
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.labels.definitions import definition_line, list_definitions, set_definition
from appview_pipeline.labels.service import LabelRequest, negate_labels
from appview_pipeline.operations.import_predecessor import ImportSummary, import_predecessor, strings_of
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.label_definitions import Strings
from appview_pipeline.store.predecessor import ForeignDefinition
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.support import predecessor as tables
from appview_pipeline_tests.support.tables import dump, rows

OURS, ANN, BOB, CAT, THEIRS = ("did:plc:" + letter * 24 for letter in "oabct")
POST = f"at://{ANN}/app.bsky.feed.post/3l"
SYSTEM = "did:plc:system"


@pytest.fixture
def url(server: EmbeddedPostgres) -> Iterator[str]:
    """The predecessor's database, with rows."""
    with check.scratch_database(server.url("postgres")) as made:
        tables.make(made)
        for did in (ANN, BOB, CAT, "nobody"):
            rows(made, "INSERT INTO users (did, handle) VALUES (%s, 'handle.invalid')", did)
        for did, forbidden in ((ANN, True), (BOB, False), (CAT, True), ("nobody", True)):
            rows(
                made, "INSERT INTO user_settings (user_did, data_collection_forbidden) VALUES (%s, %s)", did, forbidden
            )
        for value, severity, strings in (
            ("rude", "alert", {"en": {"name": "Rude", "description": "Says rude things."}, "de": {"name": "Grob"}}),
            ("odd", "info", {}),
            ("bad", "none", ["nonsense"]),
            ("wrong", "dreadful", {}),
        ):
            rows(
                made,
                "INSERT INTO label_definitions (value, description, severity, localized_strings) "
                "VALUES (%s, %s, %s, %s)",
                value,
                f"About {value}.",
                severity,
                json.dumps(strings),
            )
        for number, (src, subject, val, neg) in enumerate(
            (
                (OURS, POST, "rude", False),
                (OURS, BOB, "rude", False),
                (OURS, BOB, "rude", True),
                (SYSTEM, POST, "!warn", False),
                (SYSTEM, POST, "rude", False),
                (SYSTEM, "nonsense", "rude", False),
                (THEIRS, POST, "theirs", False),
                (OURS, CAT, "odd", True),
                (OURS, CAT, "odd", False),
            )
        ):
            rows(
                made,
                "INSERT INTO labels (uri, src, subject, val, neg, created_at) "
                "VALUES (%s, %s, %s, %s, %s, timestamp '2025-01-01' + %s * interval '1 s')",
                f"at://{src}/app.bsky.labeler.label/{number}",
                src,
                subject,
                val,
                neg,
                number,
            )
        rows(made, "INSERT INTO mutes VALUES ('at://x', %s, %s, now())", ANN, BOB)
        tables.analyze(made)
        yield made


@pytest.fixture
def settings(database: Database) -> Settings:
    return Settings(database_url=database.url, labeler_did=OURS)


def in_effect(database: Database) -> list[tuple[str, str]]:
    found = rows(database.url, "SELECT uri, val FROM bsky.label WHERE src = %s AND NOT neg ORDER BY 1, 2", OURS)
    assert rows(database.url, "SELECT DISTINCT src FROM bsky.label") in ([], [(OURS,)])
    return [(uri, val) for uri, val in found]


def forbidden(database: Database) -> list[str]:
    return [did for (did,) in rows(database.url, "SELECT did FROM pipeline.repo WHERE excluded ORDER BY did")]


def counts(summary: ImportSummary) -> list[tuple[int, int, int, int]]:
    kinds = (summary.opt_outs, summary.definitions, summary.labels)
    return [(it.found, it.taken, it.unchanged, sum(it.refused.values())) for it in kinds]


def test_what_the_network_does_not_know_moves_and_again_changes_nothing(
    database: Database, settings: Settings, url: str
) -> None:
    there = rows(url, "SELECT * FROM labels ORDER BY uri")
    summary = import_predecessor(settings, database, url)
    assert counts(summary) == [(3, 2, 0, 1), (4, 3, 0, 1), (7, 3, 0, 3)]
    assert summary.is_complete
    assert forbidden(database) == [ANN, CAT]
    assert in_effect(database) == sorted([(POST, "rude"), (POST, "!warn"), (CAT, "odd")])
    shown = {it.val: definition_line(it) for it in list_definitions(database, sources=[OURS])}
    assert shown.keys() == {"rude", "odd", "bad"}
    assert "severity alert, blurs content, default warn" in shown["rude"] and "Rude (en)" in shown["rude"]
    assert "severity inform, blurs none, default warn" in shown["odd"] and "About odd." in shown["odd"]
    assert "severity none, blurs none, default ignore" in shown["bad"]
    assert summary.labels.refused == {
        "taken back there": 1,
        f"of {THEIRS}, another labeler: subscribe to it (APPVIEW_LABELERS), or name it with --source": 1,
        "the subject is neither a DID nor the AT URI of a record": 1,
    }
    assert summary.left["mutes"][0] == 1 and "reference AppView keeps its own" in summary.left["mutes"][1]
    assert "from the network" in summary.left["users"][1]
    before = dump(database.url)
    again = import_predecessor(settings, database, url)
    assert counts(again) == [(3, 0, 2, 1), (4, 0, 3, 1), (7, 0, 3, 3)]
    assert dump(database.url) == before
    assert rows(url, "SELECT * FROM labels ORDER BY uri") == there


def test_what_was_decided_here_since_stays(database: Database, settings: Settings, url: str) -> None:
    import_predecessor(settings, database, url)
    switch_collection(database, CAT, forbid=False)
    negate_labels(settings, database, [LabelRequest(POST, "rude")])
    set_definition(settings, database, "rude", severity="inform", locales=[Strings("en", "Rough", "")])
    again = import_predecessor(settings, database, url)
    assert forbidden(database) == [ANN]
    assert (POST, "rude") not in in_effect(database)
    assert "Rough" in definition_line(list_definitions(database, values=["rude"])[0])
    assert again.opt_outs.refused["the account has allowed the collection of its data here since"] == 1
    assert again.labels.refused["taken back here since"] == 1


def test_a_dry_run_writes_nothing_and_counts_the_same(database: Database, settings: Settings, url: str) -> None:
    before = dump(database.url)
    dry = import_predecessor(settings, database, url, dry_run=True)
    assert dump(database.url) == before
    assert dry.lines()[0] == "Nothing was written; this is what would be."
    wet = import_predecessor(settings, database, url)
    assert counts(dry) == counts(wet)


def test_labels_of_other_sources_move_when_they_are_named(database: Database, settings: Settings, url: str) -> None:
    import_predecessor(settings, database, url, sources=[THEIRS])
    assert in_effect(database) == [(POST, "theirs")]


def test_without_a_labeler_only_opt_outs_move(database: Database, url: str) -> None:
    summary = import_predecessor(Settings(database_url=database.url), database, url)
    assert counts(summary)[:2] == [(3, 2, 0, 1), (4, 0, 0, 4)]
    assert not summary.is_complete and in_effect(database) == []
    assert "APPVIEW_LABELER_DID" in "\n".join(summary.lines())


def test_another_database_is_a_sentence(database: Database, settings: Settings) -> None:
    with pytest.raises(OperatorError, match="none of the predecessor's tables"):
        import_predecessor(settings, database, database.url)
    with pytest.raises(OperatorError, match=r"can't be reached|does not exist"):
        import_predecessor(settings, database, database.url.replace("appview_fresh", "nowhere"))


def test_purge_removes_what_is_stored_of_those_who_had_opted_out(
    database: Database, settings: Settings, url: str
) -> None:
    import_predecessor(settings, database, url)
    import_predecessor(settings, database, url, purge=True)
    assert rows(database.url, "SELECT did, reason FROM pipeline.removal ORDER BY did") == [
        (ANN, "opt-out"),
        (CAT, "opt-out"),
    ]


@pytest.mark.parametrize(
    ("given", "strings"),
    [
        (None, [("en", "x", "About x.")]),
        ([{"lang": "en", "name": "X", "description": "It."}], [("en", "X", "It.")]),
        ({"pt-BR": {"name": "Xis"}, "de": "Iks", "fr": 7}, [("pt-BR", "Xis", "About x."), ("de", "Iks", "About x.")]),
    ],
)
def test_strings_of_any_form(given: object, strings: list[tuple[str, str, str]]) -> None:
    found = strings_of(ForeignDefinition("x", "About x.", "warn", given))
    assert [tuple(it) for it in found][: len(strings)] == strings
    assert any(it.lang == "en" for it in found)


def test_the_command(database: Database, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda settings, service: None)
    environment = {"DATABASE_URL": database.url, "APPVIEW_LABELER_DID": ""}
    shown = CliRunner().invoke(cli, ["import-predecessor", url, "--dry-run", "--json"], env=environment)
    assert shown.exit_code == 1, (shown.output, shown.exception)
    assert json.loads(shown.stdout.splitlines()[-1])["opt_outs"]["taken"] == 2
    shown = CliRunner().invoke(cli, ["import-predecessor", url], env={**environment, "APPVIEW_LABELER_DID": OURS})
    assert shown.exit_code == 0 and "3 found, 2 taken over" in shown.stdout
    assert forbidden(database) == [ANN, CAT]
