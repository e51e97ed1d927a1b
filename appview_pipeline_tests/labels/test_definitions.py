"""What labels mean: what the operator sets goes before what the labeler's record says."""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.definitions import (
    definition_line,
    list_definitions,
    remove_definition,
    set_definition,
    strings_in,
)
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.label_definitions import LabelDefinition, Strings
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, update
from appview_pipeline_tests.support.tables import rows

OURS = "did:plc:" + "o" * 24
ENGLISH = Strings("en", "Rude", "Says rude things.")


@pytest.fixture
def settings(database: Database) -> Settings:
    return Settings(database_url=database.url, labeler_did=OURS)


def service(severity: str, *values: str) -> dict[str, Any]:
    """A labeler's record that defines `rude`, and uses other values."""
    definition = {
        "identifier": "rude",
        "severity": severity,
        "blurs": "content",
        "adultOnly": True,
        "locales": [{"lang": "pt-BR", "name": "Rude (BR)", "description": "Fala."}],
    }
    return {"policies": {"labelValues": list(values), "labelValueDefinitions": [definition]}, "createdAt": WHEN}


def shown(database: Database, **asked: Any) -> list[tuple[Any, ...]]:
    return [(it.val, it.severity, it.is_local) for it in list_definitions(database, **asked)]


def test_what_is_set_here_goes_before_the_record(database: Database, settings: Settings) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create("app.bsky.labeler.service/self", service("alert", "porn", "rude"))))
    assert shown(database, sources=[ann.did]) == [("porn", None, False), ("rude", "alert", False)]
    set_definition(settings, database, "rude", severity="none", locales=[ENGLISH], source=ann.did)
    set_definition(settings, database, "porn", severity="inform", locales=[ENGLISH], source=ann.did)
    set_definition(settings, database, "new", locales=[ENGLISH], source=ann.did)
    merged = [("new", "inform", True), ("porn", "inform", True), ("rude", "none", True)]
    assert shown(database, sources=[ann.did]) == merged
    index(database, ann.commit(update("app.bsky.labeler.service/self", service("inform"))))
    assert shown(database, sources=[ann.did]) == merged, "the record's edit does not change what was set"
    assert remove_definition(settings, database, "rude", source=ann.did)
    assert not remove_definition(settings, database, "rude", source=ann.did)
    assert shown(database, sources=[ann.did], values=["rude"]) == [("rude", "inform", False)]
    assert remove_definition(settings, database, "porn", source=ann.did)
    assert shown(database, values=["porn"]) == []


def test_our_own_labels_are_defined_by_default(database: Database, settings: Settings) -> None:
    set_definition(settings, database, "rude", locales=[ENGLISH], blurs="media")
    made = set_definition(
        settings,
        database,
        "rude",
        locales=[ENGLISH, Strings("pt-BR", "Grosseiro", "É grosseiro.\nMuito.")],
        severity="alert",
        default_setting="hide",
        adult_only=True,
    )
    (found,) = list_definitions(database, sources=[OURS])
    assert (found.locales, found.blurs, found.adult_only) == (made.locales, "none", True), "it replaces all of it"
    assert found.as_json() == {
        "src": OURS,
        "isLocal": True,
        "identifier": "rude",
        "severity": "alert",
        "blurs": "none",
        "defaultSetting": "hide",
        "adultOnly": True,
        "locales": [
            {"lang": "en", "name": "Rude", "description": "Says rude things."},
            {"lang": "pt-BR", "name": "Grosseiro", "description": "É grosseiro.\nMuito."},
        ],
    }
    assert definition_line(found, ["pt"]).splitlines() == [
        f"{OURS}  rude  severity alert, blurs none, default hide, adults only  set here",
        "    Grosseiro (pt-BR): É grosseiro. Muito.",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"severity": "warn"}, "'warn' is no severity that readers know: inform, alert, none"),
        ({"blurs": "all"}, "no blurs"),
        ({"default_setting": "show"}, "no default"),
        ({"val": ""}, "no value of a label"),
        ({"val": "x" * 129}, "no value of a label"),
        ({"val": "\udcff"}, "no value of a label"),
        ({"locales": []}, "one language at least"),
        ({"locales": [Strings("english!", "a", "b")]}, "is no language"),
        ({"locales": [Strings("en", "", "b")]}, "is empty"),
        ({"locales": [Strings("en", "a" * 65, "b")]}, "longer than 64"),
        ({"locales": [Strings("en", "a", "b" * 10_001)]}, "longer than 10,000"),
        ({"locales": [Strings("en", "a\0", "b")]}, "is not text"),
        ({"locales": [Strings("en", "a", "\ud800")]}, "is not text"),
        ({"locales": [ENGLISH, ENGLISH]}, "same language"),
        ({"source": "nobody.test"}, "no account is known to have the handle"),
    ],
)
def test_what_readers_could_not_show_is_refused(
    database: Database, settings: Settings, change: dict[str, Any], reason: str
) -> None:
    given = {"val": "rude", "locales": [ENGLISH], **change}
    with pytest.raises(OperatorError, match=reason):
        set_definition(settings, database, given.pop("val"), **given)
    assert list_definitions(database) == []


@pytest.mark.parametrize("text", ["\0", "\udcff"])
def test_what_no_value_can_have_is_not_found(database: Database, settings: Settings, text: str) -> None:
    set_definition(settings, database, "rude", locales=[ENGLISH])
    assert list_definitions(database, values=[text]) == []
    with pytest.raises(OperatorError, match="neither a DID nor a handle"):
        list_definitions(database, sources=[text])
    assert not remove_definition(settings, database, "rude" + text)
    assert len(list_definitions(database, values=[text, "rude"])) == 1


def test_without_a_labeler_of_ours_a_source_is_needed(database: Database) -> None:
    with pytest.raises(OperatorError, match="APPVIEW_LABELER_DID"):
        set_definition(Settings(database_url=database.url), database, "rude", locales=[ENGLISH])


@pytest.mark.parametrize(
    ("tags", "wanted", "found"),
    [
        ("en pt-BR de", ["pt-BR"], "pt-BR"),
        ("en pt-BR de", ["pt-br"], "pt-BR"),
        ("en pt de", ["pt-BR"], "pt"),
        ("en pt-BR de", ["pt"], "pt-BR"),
        ("en pt-BR de", ["ja", "de-CH-1996"], "de"),
        ("de en-GB pt", ["ja"], "en-GB"),
        ("de pt", ["ja"], "de"),
        ("de pt", [], "de"),
        ("", ["en"], None),
    ],
)
def test_strings_are_those_of_the_readers_language(tags: str, wanted: list[str], found: str | None) -> None:
    locales = tuple(Strings(tag, "name", "description") for tag in tags.split())
    definition = LabelDefinition("did:plc:x", "rude", "alert", "none", "warn", False, locales, True)
    strings = strings_in(definition, wanted)
    assert (strings and strings.lang) == found


def test_strange_rows_do_not_break_the_list(database: Database) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.label_definition (src, val, severity, locales) "
        """VALUES ('did:plc:x', 'a', 'odd', '[1, {"lang": "en"}, {"name": 5}]')""",
    )
    (found,) = list_definitions(database)
    assert found.locales == (Strings("en", "", ""), Strings("", "5", ""))
    assert "severity odd" in definition_line(found)
