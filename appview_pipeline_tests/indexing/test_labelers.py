"""What labelers say that their labels mean: definitions follow their records, in any order and batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from appview_pipeline.indexing.collections import labeler
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.rerun import rerun_collections
from appview_pipeline.settings import Settings
from appview_pipeline.store import sql
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, update
from appview_pipeline_tests.support.tables import Fresh, dump, one, rows

PATH = "app.bsky.labeler.service/self"
TABLE = "pipeline.label_definition"


def definition(value: str, severity: str = "alert", **more: Any) -> dict[str, Any]:
    """A definition with a name in two languages."""
    locales = [{"lang": lang, "name": f"{value} {lang}", "description": "what it is"} for lang in ("en", "pt-BR")]
    return {"identifier": value, "severity": severity, "blurs": "media", "locales": locales, **more}


def service(*definitions: dict[str, Any], values: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A labeler's record."""
    policies = {"labelValues": list(values), "labelValueDefinitions": list(definitions)}
    return {"policies": policies, "createdAt": WHEN, **more}


def defined(database: Database) -> list[tuple[Any, ...]]:
    return rows(
        database.url,
        "SELECT val, severity, blurs, default_setting, adult_only, jsonb_array_length(locales) "
        f"FROM {TABLE} WHERE NOT is_local ORDER BY src, position",
    )


def test_definitions_follow_the_record(database: Database) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create(PATH, service(definition("spider", adultOnly=True), values=["porn", "spider"]))))
    assert defined(database) == [
        ("spider", "alert", "media", "warn", True, 2),
        ("porn", None, None, None, False, 0),
    ]
    assert one(database.url, f"SELECT locales -> 1 FROM {TABLE} WHERE val = 'spider'") == {
        "lang": "pt-BR",
        "name": "spider pt-BR",
        "description": "what it is",
    }
    rows(database.url, f"INSERT INTO {TABLE} (src, val, is_local, severity) VALUES (%s, 'spider', true, 'x')", ann.did)
    index(database, ann.commit(update(PATH, service(definition("rude", defaultSetting="hide"), values=["porn"]))))
    assert [row[0] for row in defined(database)] == ["rude", "porn"]
    index(database, ann.commit(delete(PATH)))
    assert rows(database.url, f"SELECT val, is_local FROM {TABLE}") == [("spider", True)], "the operator's own stays"


def test_only_the_record_self_counts(database: Database) -> None:
    ann = Person(Stream(), "ann")
    other = "app.bsky.labeler.service/other"
    index(database, ann.commit(create(PATH, service(definition("spider"))), create(other, service(definition("x")))))
    index(database, ann.commit(update(other, service(definition("y")))))
    index(database, ann.commit(delete(other)))
    assert [row[0] for row in defined(database)] == ["spider"]


@pytest.mark.parametrize(
    ("record", "values"),
    [
        (service(definition("a", "first"), definition("b"), definition("a", "second")), ["a", "b"]),
        (service(definition("UPPER_case and more", "catastrophic", blurs="everything")), ["UPPER_case and more"]),
        (service(definition("a\0b"), definition("ab", "second"), values=["ab", "c"]), ["ab", "c"]),
        (service(definition("", "alert"), values=[""]), []),
        (service(values=["a", "a", "!hide"]), ["a", "!hide"]),
        (service(values=["a" * 128, "b" * 129, "é" * 65, "x" * 90_000]), ["a" * 128]),
        ({"policies": {"labelValues": ["a"]}, "createdAt": WHEN}, ["a"]),
        (service({**definition("a"), "locales": [], "defaultSetting": "", "more": {"$link": 1}}), ["a"]),
        (service(definition("a", locales=[{"lang": "en", "name": "\0n", "description": "\0", "x": 1}])), ["a"]),
    ],
    ids=["twice", "unknown words", "NUL", "empty", "named twice", "long", "none defined", "bare", "NUL in strings"],
)
def test_what_does_not_fit_breaks_nothing(database: Database, record: dict[str, Any], values: list[str]) -> None:
    """And the migration finds in stored records what the write path does."""
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create(PATH, record)))
    assert one(database.url, "SELECT count(*) FROM bsky.labeler") == 1
    assert [row[0] for row in defined(database)] == values
    before = rows(database.url, f"SELECT * FROM {TABLE} ORDER BY src, val")
    rows(database.url, f"DELETE FROM {TABLE}")
    rows(database.url, _fill())
    assert rows(database.url, f"SELECT * FROM {TABLE} ORDER BY src, val") == before
    assert rerun_collections(database, [labeler.COLLECTION.nsid]).changed == {}


def test_of_very_many_values_the_first_are_stored(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create(PATH, service(definition("x"), values=[f"v{n}" for n in range(2_000)]))))
    found = [row[0] for row in defined(database)]
    assert found == ["x", *(f"v{n}" for n in range(labeler.MAX_DEFINITIONS - 1))]
    rows(database.url, f"DELETE FROM {TABLE}")
    rows(database.url, _fill())
    assert [row[0] for row in defined(database)] == found


def _fill() -> str:
    """The statement of the migration that fills the table."""

    text = sql.read("schema/0024_labels.sql")
    begin = text.index("WITH value AS (")
    return text[begin : text.index(";\n", begin)]


@pytest.mark.parametrize("seed", range(6))
def test_any_order_batches_and_repetition_end_in_the_same_definitions(fresh: Fresh, seed: int) -> None:
    rng = random.Random(seed)
    stream = Stream()
    people = [Person(stream, name) for name in ("ann", "bob")]
    frames = []
    for number in range(14):
        person = rng.choice(people)
        record = service(*(definition(f"v{rng.randrange(4)}", f"s{number}") for _ in range(3)), values=["porn", "v0"])
        if PATH not in person.repository.own:
            frames.append(person.commit(create(PATH, record)))
        else:
            frames.append(person.commit(delete(PATH) if rng.random() < 0.3 else update(PATH, record)))
    with fresh() as in_order, fresh() as other:
        for frame in frames:
            index(in_order, frame)
        shuffled = rng.sample([*frames, *rng.sample(frames, 5)], len(frames) + 5)
        while shuffled:
            size = rng.randint(1, 6)
            index(other, *shuffled[:size])
            shuffled = shuffled[size:]
        assert dump(other.url).get(TABLE) == dump(in_order.url).get(TABLE)
        for database in (in_order, other):
            assert rerun_collections(database, [labeler.COLLECTION.nsid]).changed == {}


@pytest.mark.parametrize(
    "damage",
    [
        f"DELETE FROM {TABLE} WHERE val = 'a'",
        f"UPDATE {TABLE} SET severity = 'none' WHERE val = 'a'",
        f"UPDATE {TABLE} SET locales = '[]' WHERE val = 'a'",
        f"UPDATE {TABLE} SET position = 7 WHERE val = 'a'",
        f"INSERT INTO {TABLE} (src, val) SELECT src, 'too much' FROM {TABLE} WHERE val = 'a'",
        "DELETE FROM bsky.labeler",
    ],
)
def test_a_rerun_repairs_definitions(database: Database, damage: str) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create(PATH, service(definition("a"), values=["porn"]))))
    before = dump(database.url)
    rows(database.url, damage)
    assert rerun_collections(database, [labeler.COLLECTION.nsid]).changed == {"labeler": 1}
    assert dump(database.url) == before
    assert rerun_collections(database, [labeler.COLLECTION.nsid]).changed == {}


def test_a_labeler_that_opts_out_defines_nothing_more_and_a_purge_removes_what_it_had(database: Database) -> None:
    ann = Person(Stream(), "ann")
    index(database, ann.commit(create(PATH, service(definition("a")))))
    rows(database.url, f"INSERT INTO {TABLE} (src, val, is_local) VALUES (%s, 'a', true)", ann.did)
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s, purge => true)", ann.did)
    index(database, ann.commit(update(PATH, service(definition("b")))))
    assert [row[0] for row in defined(database)] == ["a"]
    assert remove_accounts(Settings(database_url=database.url), database).accounts == 1
    assert rows(database.url, f"SELECT val, is_local FROM {TABLE}") == [("a", True)]
