"""What the reference makes of rare records, in any batching: expected values are those of `@atproto/bsky` 0.0.280."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.indexing.collections.reference_list_opt_out import names_list
from appview_pipeline.indexing.registry import COLLECTIONS, IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded import EmbeddedPostgres
from appview_pipeline_tests.frames import WHEN, Person, Stream, create, delete, did_of, post
from appview_pipeline_tests.reference_oracle.plugins import PLUGINS, plugins_of
from appview_pipeline_tests.tables import fresh_database, one, rows

BEYOND = frozenset(
    (
        "app.bsky.actor.contentVisibilityDeclaration",
        "com.atproto.lexicon.schema",
        "site.standard.document",
        "site.standard.graph.recommend",
        "site.standard.graph.subscription",
        "site.standard.publication",
        "site.standard.theme.basic",
    )
)
"""Record types that we keep in `record` and the reference does not (docs/differences.md)."""

NOWHERE = to_text(cid_for_cbor(b"nothing"))
SIZES = (1, 2, 3, 0)
"""Frames a batch; 0: all of them."""


@pytest.fixture
def database(server: EmbeddedPostgres, template_database: str) -> Iterator[Database]:
    with fresh_database(server, template_database) as made:
        yield made


def index(database: Database, frames: Sequence[bytes], size: int) -> None:
    writer = Writer(database, Settings(database_url=database.url), "test", None)
    size = size or len(frames)
    for at in range(0, len(frames), size):
        writer.write(read_changes(frames[at : at + size], record_validators(None), IndexedCollections()), time.time())


# ---- the record types


def test_every_record_type_of_the_reference_is_indexed() -> None:
    assert set(COLLECTIONS) == PLUGINS | BEYOND


def test_the_list_of_record_types_is_that_of_the_package() -> None:
    packages = os.environ.get("APPVIEW_REFERENCE_PACKAGES")
    if not packages:
        pytest.skip("APPVIEW_REFERENCE_PACKAGES names no node_modules with @atproto/bsky (reference_oracle/README.md)")
    assert plugins_of(Path(packages)) == PLUGINS


# ---- the cases that were found beside the reference's own indexer


def case_ids() -> list[str]:
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases"
    return sorted(path.parent.name for path in folder.glob("diff-[lr]*/checks.json")) or ["absent"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", case_ids())
def test_case(database: Database, name: str, size: int) -> None:
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases" / name
    if not folder.is_dir():
        pytest.skip("the cases (../shared/cases) are not there")
    data, frames = (folder / "input.frames.bin").read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data)
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    index(database, frames, size)
    for check in json.loads((folder / "checks.json").read_text()):
        assert one(database.url, check["sql"]) == check["want"], check["what"]


# ---- app.bsky.graph.referencelistoptout

OPTOUT = "app.bsky.graph.referencelistoptout"
LIST = "app.bsky.graph.list/3lrnqkotindky"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        (f"at://{did_of('ann')}/{LIST}", True),
        (f"at://did:web:example.com/{LIST}", True),
        (f"at://{did_of('ann')}", False),
        (f"at://{did_of('ann')}/app.bsky.graph.list", False),
        (f"at://{did_of('ann')}/app.bsky.graph.listitem/3lrnqkotindky", False),
        (f"at://{did_of('ann')}/{LIST}/more", False),
        (f"at://{did_of('ann')}/{LIST}/", False),
        (f"at://{did_of('ann')}/{LIST}?x=1", False),
        (f"at://{did_of('ann')}/{LIST}#x", False),
        (f"at://ann.example.com/{LIST}", False),
        (f"at://{did_of('ann')}/app.bsky.graph.list/..", False),
    ],
)
def test_an_opt_out_names_a_list_by_its_whole_uri(uri: str, named: bool) -> None:
    assert names_list(uri) is named


def opt_out(rkey: str, subject: str) -> Any:
    return create(f"{OPTOUT}/{rkey}", {"subject": subject, "createdAt": WHEN})


@pytest.mark.parametrize("size", SIZES)
def test_one_opt_out_an_account_and_list(database: Database, size: int) -> None:
    stream = Stream()
    ann, ben, cleo, dora = (Person(stream, name) for name in ("ann", "ben", "cleo", "dora"))
    a_list = ann.uri(LIST)
    frames = [
        ann.commit(
            create(LIST, {"name": "l", "purpose": "app.bsky.graph.defs#referencelist", "createdAt": WHEN}),
        ),
        ben.commit(opt_out("3lrnqkotindka", a_list)),
        ben.commit(opt_out("3lrnqkotindkb", a_list)),
        cleo.commit(opt_out("3lrnqkotindkc", a_list)),
        cleo.commit(opt_out("3lrnqkotindkd", f"at://{ann.did}")),
        dora.commit(opt_out("3lrnqkotindke", a_list)),
        dora.commit(opt_out("3lrnqkotindkf", a_list)),
        dora.commit(delete(f"{OPTOUT}/3lrnqkotindke")),
    ]
    index(database, frames, size)
    found = rows(
        database.url,
        'SELECT creator, right(uri, 1), "subjectUri", "createdAt" FROM bsky.reference_list_opt_out ORDER BY 2',
    )
    assert found == [
        (ben.did, "a", a_list, WHEN),
        (cleo.did, "c", a_list, WHEN),
        (dora.did, "f", a_list, WHEN),  # docs/differences.md: the reference promotes none of this type
    ]
    duplicates = 'SELECT right(uri, 1), right("duplicateOf", 1) FROM bsky.duplicate_record'
    assert rows(database.url, duplicates) == [("b", "a")]
    assert one(database.url, f"SELECT count(*) FROM bsky.record WHERE uri LIKE '%/{OPTOUT}/%'") == 5
    assert one(database.url, "SELECT count(*) FROM bsky.notification") == 0


# ---- what a deletion proves

POST = "app.bsky.feed.post/3lrnqkotindky"
GATES = ("threadgate", "postgate")


def gate(kind: str, post_uri: str) -> Any:
    return create(f"app.bsky.feed.{kind}/3lrnqkotindky", {"post": post_uri, "createdAt": WHEN})


def flags(database: Database) -> list[tuple[bool | None, bool | None]]:
    return rows(database.url, 'SELECT "hasThreadGate", "hasPostGate" FROM bsky.post ORDER BY uri')


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_the_deletion_of_a_refused_gate_sets_no_flag(database: Database, first: str, size: int) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    posted = [post("3lrnqkotindky", "here")]
    refused = [gate(kind, ben.uri(POST)) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, refused, undone] if first == "post" else [refused, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(None, None)]
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_a_gate_that_names_no_post_sets_no_flag(database: Database, first: str, size: int) -> None:
    """The reference asks for the account and the record key of what a gate names, not for its collection."""
    stream = Stream()
    ann = Person(stream, "ann")
    posted = [post("3lrnqkotindky", "here")]
    gates = [gate(kind, ann.uri("app.bsky.feed.generator/3lrnqkotindky")) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, gates, undone] if first == "post" else [gates, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(None, None)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", ["post", "gates"])
def test_a_gate_that_is_gone_leaves_the_flag_false(database: Database, first: str, size: int) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    posted = [post("3lrnqkotindky", "here")]
    gates = [gate(kind, ann.uri(POST)) for kind in GATES]
    undone = [delete(f"app.bsky.feed.{kind}/3lrnqkotindky") for kind in GATES]
    turns = [posted, gates, undone] if first == "post" else [gates, undone, posted]
    index(database, [ann.commit(*writes) for writes in turns], size)
    assert flags(database) == [(False, False)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("collection", ["app.bsky.graph.list", "app.bsky.feed.post"])
def test_only_a_deleted_post_leaves_the_feeds_of_its_reposters(database: Database, collection: str, size: int) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    path = f"{collection}/3lrnqkotindky"
    record = {"text": "here"} if "post" in path else {"name": "l", "purpose": "app.bsky.graph.defs#curatelist"}
    made = create(path, {**record, "createdAt": WHEN})
    repost = {"subject": {"uri": ann.uri(path), "cid": NOWHERE}, "createdAt": WHEN}
    frames = [
        ann.commit(made),
        ben.commit(create("app.bsky.feed.repost/3lrnqkotindka", repost)),
        ann.commit(delete(path)),
    ]
    index(database, frames, size)
    assert one(database.url, "SELECT count(*) FROM bsky.feed_item") == (0 if "post" in path else 1)
    assert one(database.url, 'SELECT "repostCount"::int FROM bsky.post_agg') == 1
