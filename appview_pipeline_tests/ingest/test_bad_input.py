"""Bad input: hostile text comes back as it was, damage costs what is damaged and nothing beside it.

The whole folder of malformed frames among real ones: test_malformed_frames.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import libipld
import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appview_pipeline.protocol.cid import cid_for_cbor, cid_for_raw, from_text, to_text
from appview_pipeline.store.database import Database
from appview_pipeline.store.staging import Value, copy_rows, copy_text
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post, rev
from appview_pipeline_tests.support.records import UNREADABLE_DIDS, one_of_each, posts_with, records_with
from appview_pipeline_tests.support.tables import Dump, Fresh, dump, one, replayed_frames, rows

Replay = Callable[..., Database]

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

HOSTILE = [
    *("\t", "\n", "\r", "\r\n", "\\", "\\\\", "\\N", "\\.", "\n\\.\n", "\\t", "\\x01", "\0", "\x01", "\x02", "\x1b[2J"),
    *("'", '"', "''", "$$", ";--", "{", "}", "{}", '"}', "%s", "%", "\\u0000", "\\\\u0000", "\\ud800", "&#0;", "NULL"),
    *(
        "\u202e",
        "\u2066",
        "\u200b",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u2028",
        "\x85",
        "\x7f",
        "😀",
        "\U0010ffff",
        "e\u0301",
    ),
    *("e\u0301", "👨‍👩‍👧‍👦", "نص", "日本", "\U000e0001", " ", "", "a"),
]
hostile = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=8
).map("".join)


# ---- COPY


@pytest.fixture(scope="module")
def scratch(fresh: Fresh) -> Iterator[psycopg2.extensions.connection]:
    """A connection with a temporary table of each type that staging tables have."""
    with fresh() as made, closing(psycopg2.connect(made.url.replace("+psycopg2", ""))) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                'CREATE TEMPORARY TABLE scratch (a text, b varchar, c text COLLATE "C", n bigint, f boolean, r bytea, '
                "j jsonb) ON COMMIT PRESERVE ROWS; CREATE TEMPORARY TABLE thin (a text)"
            )
        connection.commit()
        yield connection


def copied(
    connection: psycopg2.extensions.connection, table: str, columns: Sequence[str], given: Sequence[Sequence[Value]]
) -> list[tuple[Any, ...]]:
    """What COPY made of rows, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
        copy_rows(cursor, table, columns, given)
        cursor.execute(f"SELECT {', '.join(columns)} FROM {table}")
        found = cursor.fetchall()
    connection.rollback()
    return found


def stripped(value: Value) -> Value:
    return value.replace("\0", "") if isinstance(value, str) else value


texts = st.one_of(st.none(), hostile)


@settings(quick, max_examples=200)
@given(given=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5))
@example(given=[(text, "beside", None) for text in HOSTILE])
@example(given=[("plain", "text", "only"), (None, None, None), ("\x01", "\\x01", "")])
@example(given=[("tab\there", "new\nline", "x")])
@example(given=[("one\ttab", None, "x\x01")])
def test_any_text_comes_back(
    scratch: psycopg2.extensions.connection, given: list[tuple[str | None, str | None, str | None]]
) -> None:
    found = copied(scratch, "scratch", ("a", "b", "c"), given)
    assert found == [tuple(stripped(value) for value in row) for row in given]


@settings(quick, max_examples=100)
@given(given=st.lists(st.tuples(texts), min_size=1, max_size=6))
@example(given=[("",), (None,), ("",)])
@example(given=[("\\.",), ("a",)])
@example(given=[("",)])
def test_a_single_column_too(scratch: psycopg2.extensions.connection, given: list[tuple[str | None]]) -> None:
    assert copied(scratch, "thin", ("a",), given) == [(stripped(value),) for (value,) in given]


@settings(quick, max_examples=100)
@given(
    given=st.lists(
        st.tuples(
            texts,
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            st.one_of(st.none(), st.booleans()),
            st.one_of(st.none(), st.binary(max_size=40)),
            st.one_of(st.none(), st.lists(hostile.map(lambda text: text.replace("\0", "")), max_size=3)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_row_comes_back(scratch: psycopg2.extensions.connection, given: list[tuple[Any, ...]]) -> None:
    sent = [(*row[:4], None if row[4] is None else json.dumps(row[4])) for row in given]
    found = copied(scratch, "scratch", ("a", "n", "f", "r", "j"), sent)
    got = [(a, n, f, None if r is None else bytes(r), j) for a, n, f, r, j in found]
    assert got == [(stripped(row[0]), *row[1:]) for row in given]


def test_plain_rows_are_copied_as_they_are() -> None:
    """The quick way for rows with nothing to escape gives the same bytes as the careful one."""
    plain = [("a", None, "😀"), ("", "b", None)]
    assert copy_text(plain) == "a\t\x01\t😀\n\tb\t\x01\n".encode()
    assert copy_text([*plain, ("c", "d\\", None)]) == copy_text(plain) + b"c\td\\\\\t\x01\n"


# ---- through records and frames


@pytest.fixture
def replay(database: Database, tmp_path: Path) -> Replay:
    """Replays frames into the test's database and gives it."""

    def run(*frames: bytes, **options: Any) -> Database:
        replayed_frames(database, tmp_path, frames, **options)
        return database

    return run


def stored_record(database: Database, person: Person, path: str) -> Any:
    return json.loads(one(database.url, "SELECT json FROM bsky.record WHERE uri = %s", person.uri(path)))


def without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    return value


@settings(quick, max_examples=15)
@given(text=hostile.map(lambda text: text[:60]))
@example(text="\\N")
@example(text="\0")
@example(text="a\0b\\u0000c\\\\u0000\n\\.\n\x01\t\u202e😀'\"")
@example(text="".join(HOSTILE)[:60])
@example(text="".join(HOSTILE)[-60:])
def test_hostile_text_in_whole_records_comes_back(fresh: Fresh, tmp_path: Path, text: str) -> None:
    """In every column that holds what people write, and in the record itself."""
    stream = Stream()
    ann = Person(stream, "ann")
    image = {"$type": "blob", "ref": cid_for_raw(b"image"), "mimeType": "image/png", "size": 5}
    images = {"$type": "app.bsky.embed.images", "images": [{"image": image, "alt": text}]}
    external = {"uri": "https://example.com/x", "title": text, "description": text}
    dated = {"createdAt": WHEN}
    writes = [
        post("a", text, embed=images, langs=["en"], tags=[text or "t"]),
        post("b", text, embed={"$type": "app.bsky.embed.external", "external": external}, extra={"odd key": [text]}),
        create("app.bsky.actor.profile/self", {"displayName": text, "description": text}),
        create(
            "app.bsky.graph.list/l",
            {**dated, "name": "n", "purpose": "app.bsky.graph.defs#curatelist", "description": text},
        ),
        create("app.bsky.feed.generator/g", {**dated, "did": ann.did, "displayName": "x", "description": text}),
        create("app.bsky.graph.verification/v", {**dated, "subject": ann.did, "handle": "a.test", "displayName": text}),
    ]
    with fresh() as database:
        replayed_frames(database, tmp_path, [ann.commit(*writes), ann.commit(post("c", "after"))])
        assert rows(database.url, "SELECT kind, reason, path FROM pipeline.dead_letter") == []
        want = text.replace("\0", "")
        for column in (
            "bsky.post WHERE right(uri, 2) = '/a':text",
            "bsky.post_embed_image:alt",
            "bsky.post_embed_external:title",
            "bsky.post_embed_external:description",
            'bsky.profile:"displayName"',
            "bsky.profile:description",
            "bsky.list:description",
            "bsky.feed_generator:description",
            'bsky.verification:"displayName"',
        ):
            table, _, name = column.rpartition(":")
            assert one(database.url, f"SELECT {name} FROM {table}") == want, column
        assert one(database.url, "SELECT tags FROM bsky.post WHERE right(uri, 2) = '/a'") == [without_nul(text or "t")]
        for write in writes[1:]:
            assert stored_record(database, ann, write.path) == without_nul(write.record), write.path
        # PostgreSQL itself can read every record as JSON: its own functions look into them later.
        assert one(database.url, "SELECT count(*) FROM bsky.record WHERE json::jsonb ? '$type'") == 7


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT seq, did, path, kind, reason, bytes, byte_length FROM pipeline.dead_letter")


def keys(database: Database) -> set[str]:
    return {uri.rpartition("/")[2] for (uri,) in rows(database.url, "SELECT uri FROM bsky.record")}


def test_a_bad_record_is_a_dead_letter_with_its_bytes(replay: Replay) -> None:
    stream = Stream(first_seq=100)
    ann = Person(stream, "ann")
    bad = libipld.encode_dag_cbor({"$type": "app.bsky.feed.post", "text": 5, "createdAt": WHEN})
    good = libipld.encode_dag_cbor({"$type": "app.bsky.feed.post", "text": "good", "createdAt": WHEN})
    database = replay(
        ann.commit(post("before", "x")),
        ann.commit_blocks(
            ("create", "app.bsky.feed.post/good1", good),
            ("create", "app.bsky.feed.post/bad", bad),
            ("create", "app.bsky.feed.post/good2", good),
        ),
        ann.commit(post("after", "x")),
    )
    ((seq, did, path, kind, reason, kept, length),) = letters(database)
    assert (seq, did, path, kind) == (101, ann.did, "app.bsky.feed.post/bad", "lexicon")
    assert "text" in reason and bytes(kept) == bad and length == len(bad)
    assert keys(database) == {"before", "good1", "good2", "after"}


def block_of(**fields: Any) -> bytes:
    """A post's block; `fields` override what it has."""
    record = {"$type": "app.bsky.feed.post", "text": "x", "createdAt": WHEN, **fields}
    return bytes(libipld.encode_dag_cbor({key: value for key, value in record.items() if value is not None}))


BAD_BLOCKS = {
    "not CBOR": b"\xff\xff",
    "nothing": b"",
    "a list": b"\x80",
    "a float": block_of(x=1.5),
    "no type": libipld.encode_dag_cbor({"text": "x", "createdAt": WHEN}),
    "another type": libipld.encode_dag_cbor({"$type": "app.bsky.feed.like", "text": "x", "createdAt": WHEN}),
    "nested deep": b"\x81" * 50_000 + b"\x80",
    "nested deep in a map": b"\xa1\x61a" * 20_000 + b"\xa0",
    "text too long": block_of(text="x" * 3_001),
    "no date": block_of(createdAt="yesterday"),
    "oversized": block_of(x="y" * 1_000_000),
}


def test_every_kind_of_bad_record(replay: Replay) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    good = libipld.encode_dag_cbor({"$type": "app.bsky.feed.post", "text": "good", "createdAt": WHEN})
    frames = []
    for number, block in enumerate(BAD_BLOCKS.values()):
        path = f"app.bsky.feed.post/bad{number}"
        frames.append(ann.commit_blocks(("create", f"app.bsky.feed.post/good{number}", good), ("create", path, block)))
    database = replay(*frames, batch_size=4)
    assert keys(database) == {f"good{number}" for number in range(len(BAD_BLOCKS))}
    found = {path: (seq, reason, bytes(kept), length) for seq, _, path, _, reason, kept, length in letters(database)}
    for number, (name, block) in enumerate(BAD_BLOCKS.items()):
        seq, reason, kept, length = found.pop(f"app.bsky.feed.post/bad{number}")
        assert seq == number + 1 and reason and reason.isprintable(), name
        assert kept == block[:65_536] and length == len(block), name
    assert not found


def op(action: Any, path: Any, cid: Any = None) -> dict[str, Any]:
    return {"action": action, "path": path, "cid": cid}


BAD_OPERATIONS: dict[str, Any] = {
    "no map": 7,
    "no action": op(None, "app.bsky.feed.post/x"),
    "unknown action": op("upsert", "app.bsky.feed.post/x"),
    "no path": op("delete", None),
    "no key": op("delete", "app.bsky.feed.post"),
    "two slashes": op("delete", "app.bsky.feed.post/a/b"),
    "dots": op("create", "app.bsky.feed.post/.."),
    "NUL": op("create", "app.bsky.feed.post/a\0b"),
    "hostile": op("create", "app.bsky.feed.post/\\N\t\n'\"\u202e😀"),
    "endless": op("create", "app.bsky.feed.post/" + "x" * 5_000),
    "no CID": op("create", "app.bsky.feed.post/x"),
    "missing block": op("create", "app.bsky.feed.post/x", cid_for_cbor(b"elsewhere")),
}


def test_every_kind_of_bad_operation(replay: Replay) -> None:
    """What stands beside it in the same commit is indexed; what the letter says can be shown."""
    stream = Stream()
    ann = Person(stream, "ann")
    frames = []
    for number, bad in enumerate(BAD_OPERATIONS.values()):
        frame = ann.commit(post(f"good{number}", "good"))
        header, body = libipld.decode_dag_cbor_multi(frame)
        body["ops"].insert(number % 2, bad)
        frames.append(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body))
    database = replay(*frames)
    assert keys(database) == {f"good{number}" for number in range(len(BAD_OPERATIONS))}
    found = {seq: (kind, reason) for seq, _, _, kind, reason, _, _ in letters(database)}
    assert found.keys() == {number + 1 for number in range(len(BAD_OPERATIONS))}
    assert all(kind.startswith(("op-", "record-block")) and reason for kind, reason in found.values())


BAD_EVENTS: dict[str, Callable[[Person], bytes]] = {
    "no frame": lambda ann: b"\x00garbage",
    "no DID": lambda ann: ann.commit(post("lost", "x"), repo="nobody"),
    "no rev": lambda ann: ann.commit(post("lost", "x"), rev="yesterday"),
    "rev far ahead": lambda ann: ann.commit(post("lost", "x"), rev="7zzzzzzzzzzzz"),
    "time": lambda ann: ann.commit(post("lost", "x"), time="now"),
    "seq": lambda ann: ann.commit(post("lost", "x"), seq=-5),
    "no blocks": lambda ann: ann.commit(post("lost", "x"), blocks=b""),
    "cut blocks": lambda ann: ann.commit(post("lost", "x"), blocks=b"\x3a\xa2eroots\x81"),
    "too big": lambda ann: ann.commit(post("lost", "x"), tooBig=True),
    "rebase": lambda ann: ann.commit(post("lost", "x"), rebase=True),
    "other commit": lambda ann: ann.commit(post("lost", "x"), commit=cid_for_cbor(b"other")),
    "201 operations": lambda ann: ann.commit(
        post("lost", "x"), ops=[op("delete", f"app.bsky.feed.post/x{number}") for number in range(201)]
    ),
    "oversized": lambda ann: ann.commit(post("lost", "x"), blocks=bytes(4_000_000)),
    "sync without blocks": lambda ann: ann.stream.frame("#sync", {"did": ann.did, "rev": rev(2), "blocks": b""}),
    "account": lambda ann: ann.stream.frame("#account", {"did": ann.did, "active": "yes"}),
    "identity": lambda ann: ann.stream.frame("#identity", {"did": "did:\0"}),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_every_kind_of_bad_event(replay: Replay, name: str) -> None:
    """A dead letter with what could be read of it; the events of the same and of other repositories are indexed."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    before = ann.commit(post("a1", "x"))
    bad = BAD_EVENTS[name](ann)
    database = replay(before, bad, ann.commit(post("a2", "x")), ben.commit(post("b1", "x")))
    ((seq, did, path, kind, reason, kept, length),) = letters(database)
    assert kind and reason and path is None
    assert bytes(kept) == bad[:65_536] and length == len(bad)
    assert seq in (None, 2) and did in (None, ann.did)
    assert keys(database) == {"a1", "a2", "b1"}
    report = rows(database.url, "SELECT frames, rejected, rejected_by_kind FROM pipeline.batch")
    assert report == [(4, 1, {kind: 1})]


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_bytes_damaged_anywhere(replay: Replay, damage: str) -> None:
    """A real commit with a damaged byte at every place: never a crash, never something that was not said."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    frame = ann.commit(post("a1", "the text"), post("a2", "another text"))
    damaged = []
    for at in range(0, len(frame), 5):
        if damage == "flip":
            damaged.append(frame[:at] + bytes((frame[at] ^ 1 << at % 8,)) + frame[at + 1 :])
        elif damage == "cut":
            damaged.append(frame[:at])
        else:
            damaged.append(frame[:at] + frame[at + 1 : at + 2] + frame[at : at + 1] + frame[at + 2 :])
    database = replay(*damaged, ben.commit(post("b1", "x")), batch_size=50)
    assert "b1" in keys(database)
    texts = rows(database.url, "SELECT text FROM bsky.post WHERE right(uri, 2) IN ('a1', 'a2')")
    assert {text for (text,) in texts} <= {"the text", "another text"}
    assert len(letters(database)) >= len(set(damaged)) // 2


def malformed(conformance: Path, name: str) -> bytes:
    return (conformance / "malformed" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "kind", "whole"),
    [
        ("a-bitflip-car", "record-block", False),
        ("a-record-text-altered", "record-block", False),
        ("a-truncated-one-byte", "frame-cbor", True),
        ("b-commit-did-mismatch", "commit-mismatch", True),
        ("b-commit-many-ops", "commit-limit", True),
        ("b-commit-path-nul-rkey", "op-path", False),
        ("b-record-big-1mb", "record-invalid", False),
        ("b-record-nan", "record-invalid", False),
    ],
)
def test_letters_of_malformed_frames(replay: Replay, conformance: Path, name: str, kind: str, whole: bool) -> None:
    """Who, where, what kind, and the bytes up to the bound; the neighbours of the same repository are indexed."""
    entries = json.loads((conformance / "malformed/index.json").read_text())
    (entry,) = (entry for entry in entries if entry["file"] == f"{name}.frame")
    frame = malformed(conformance, f"{name}.frame")
    control = malformed(conformance, "b-commit-control-valid.frame")
    database = replay(control, frame, malformed(conformance, "b-commit-no-since-no-prevdata.frame"))
    ((seq, did, path, found, reason, kept, length),) = letters(database)
    assert found == kind and reason
    assert len(bytes(kept)) == min(length, 65_536)
    if whole:
        assert path is None and bytes(kept) == frame[:65_536] and length == len(frame)
    else:
        assert path is not None and path.startswith("app.bsky.feed.post/") and "\0" not in path
    if found != "frame-cbor":
        assert did == entry.get("did", entry.get("repo")) and isinstance(seq, int)
    stored = {uri for (uri,) in rows(database.url, "SELECT uri FROM bsky.record")}
    assert len(stored) == 2 + ("good" in entry)
    assert entry.get("good") in {*stored, None} and entry.get("bad") not in stored


def from_json(value: Any) -> Any:
    """atproto JSON as the values that `libipld` encodes."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if "$link" in value:
            return from_text(value["$link"])
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"] + "==")
        return {key: from_json(item) for key, item in value.items()}
    return value


def test_odd_real_frames(replay: Replay, conformance: Path) -> None:
    """A commit of 2023, and Sync 1.1's first ones, some without a proof: indexed, or dead letters, but not a crash."""
    header = libipld.encode_dag_cbor({"op": 1, "t": "#commit"})
    frames = [(conformance / "frames/single/commit_legacy_2023_carbox.frame").read_bytes()]
    for path in sorted((conformance / "frames/indigo-commits").glob("firehose_commit_*.json")):
        body = from_json(json.loads(path.read_text()))
        frames.append(header + libipld.encode_dag_cbor(body))
    assert len(frames) == 5
    ann = Person(Stream(), "ann")
    database = replay(ann.commit(post("a1", "x")), *frames, ann.commit(post("a2", "x")))
    assert {"a1", "a2"} <= keys(database)
    indexed = one(database.url, "SELECT count(*) FROM bsky.record")
    assert indexed > 2 and indexed + len(letters(database)) >= 2 + len(frames)
    repos = {did for (did,) in rows(database.url, "SELECT did FROM bsky.record")}
    said = {did for _, did, *_ in letters(database)}
    for frame in frames:
        assert libipld.decode_dag_cbor_multi(frame)[1]["repo"] in repos | said


def test_a_deleted_neighbour_of_a_bad_record_is_deleted(replay: Replay) -> None:
    ann = Person(Stream(), "ann")
    bad = Write("create", "app.bsky.feed.like/bad", {"$type": "app.bsky.feed.like", "createdAt": WHEN})
    database = replay(
        ann.commit(post("a", "x"), post("b", "x")),
        ann.commit(Write("delete", "app.bsky.feed.post/a", None), bad),
    )
    assert keys(database) == {"b"}
    assert [path for _, _, path, *_ in letters(database)] == ["app.bsky.feed.like/bad"]


def test_the_dump_sees_what_text_is_stored(fresh: Fresh, tmp_path: Path) -> None:
    """The instrument of the tests that compare tables: states that differ by one character differ."""
    dumps: list[Dump] = []
    for text in ("x", "x", "y"):
        with fresh() as database:
            replayed_frames(database, tmp_path, [Person(Stream(), "ann").commit(post("a", text))])
            dumps.append(dump(database.url))
    assert dumps[0] == dumps[1] != dumps[2]


# ---- records that say one thing and could be stored as another


def with_key(record: dict[str, Any], key: str, value: Any) -> list[dict[str, Any]]:
    """The record with one key more, which comes first or last."""
    return [{key: value, **record}, {**record, key: value}]


@pytest.mark.parametrize("size", [1, 100])
def test_a_key_of_the_lexicon_never_gets_the_value_of_another_key(
    database: Database, tmp_path: Path, size: int
) -> None:
    """Also where U+0000 is all that tells them apart: text, the followed, the type, the date, and inside of maps."""
    stream = Stream()
    ann, ben, cleo = (Person(stream, name) for name in ("ann", "ben", "cleo"))
    liked = {"uri": ben.uri("app.bsky.feed.post/b"), "cid": to_text(cid_for_cbor(b"x"))}
    other = {"uri": cleo.uri("app.bsky.feed.post/c"), "cid": to_text(cid_for_cbor(b"y"))}
    dated = {"createdAt": WHEN}
    said = {"$type": "app.bsky.feed.post", "text": "said", **dated}
    writes: list[Write] = []
    for number, record in enumerate(
        [
            *with_key(said, "te\0xt", "not said"),
            *with_key(said, "\0text", "not said"),
            *with_key(said, "$type\0", "app.bsky.graph.follow"),
            *with_key(said, "created\0At", "1999-01-01T00:00:00.000Z"),
            *with_key({**said, "langs": ["en"]}, "langs\0", ["de"]),
        ]
    ):
        writes.append(Write("create", f"app.bsky.feed.post/{number}", record))
    for number, record in enumerate(
        with_key({"$type": "app.bsky.graph.follow", "subject": ben.did, **dated}, "subj\0ect", cleo.did)
    ):
        writes.append(Write("create", f"app.bsky.graph.follow/{number}", record))
    for number, strong in enumerate(with_key(liked, "ur\0i", other["uri"])):
        writes.append(
            Write("create", f"app.bsky.feed.like/{number}", {"$type": "app.bsky.feed.like", "subject": strong, **dated})
        )
    frames = [ann.commit(write) for write in writes]
    for _ in range(2):
        replayed_frames(database, tmp_path, frames, size)
        url = database.url
        assert rows(url, 'SELECT DISTINCT text, "createdAt", langs IS DISTINCT FROM \'["de"]\' FROM bsky.post') == [
            ("said", WHEN, True)
        ]
        assert one(url, "SELECT count(*) FROM bsky.post") == 10
        assert rows(url, 'SELECT DISTINCT "subjectDid" FROM bsky.follow') == [(ben.did,)]
        assert rows(url, "SELECT DISTINCT subject FROM bsky.like") == [(liked["uri"],)]
        assert rows(url, "SELECT DISTINCT did FROM bsky.notification") == [(ben.did,)]
        assert rows(url, "SELECT kind FROM pipeline.dead_letter") == []
        for write in writes:
            assert write.record is not None
            assert stored_record(database, ann, write.path) == without_odd_keys(write.record)


def without_odd_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [without_odd_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: without_odd_keys(item) for key, item in value.items() if "\0" not in key and key != "__proto__"}
    return value


def identifiers(ann: Person) -> list[dict[str, Any]]:
    """Records in which U+0000 stands in what is no text: without it, each would mean something else."""
    strong = {"uri": ann.uri("app.bsky.feed.post/a"), "cid": to_text(cid_for_cbor(b"x"))}
    dated = {"createdAt": WHEN}
    said = {"$type": "app.bsky.feed.post", "text": "x", **dated}
    mention = {"$type": "app.bsky.richtext.facet#mention\0", "did": ann.did}
    return [
        {"$type": "app.bsky.graph.follow", "subject": ann.did + "\0", **dated},
        {"$type": "app.bsky.feed.like", "subject": {**strong, "uri": strong["uri"] + "\0"}, **dated},
        {"$type": "app.bsky.feed.like", "subject": {**strong, "cid": "\0" + strong["cid"]}, **dated},
        {"$type": "app.bsky.feed.post\0", "text": "x", **dated},
        {**said, "createdAt": WHEN + "\0"},
        {**said, "langs": ["e\0n"]},
        {**said, "embed": {"$type": "app.bsky.embed.record\0", "record": strong}},
        {**said, "facets": [{"index": {"byteStart": 0, "byteEnd": 1}, "features": [mention]}]},
        {"$type": "app.bsky.graph.list", "name": "x", "purpose": "app.bsky.graph.defs#modlist\0", **dated},
    ]


def test_an_identifier_with_nul_is_none(replay: Replay) -> None:
    ann = Person(Stream(), "ann")
    bad = identifiers(ann)
    frames = [
        ann.commit_blocks(
            ("create", f"{record['$type'].rstrip(chr(0))}/bad{number}", bytes(libipld.encode_dag_cbor(record))),
            ("create", f"app.bsky.feed.post/good{number}", block_of(text="g\0ood")),
        )
        for number, record in enumerate(bad)
    ]
    database = replay(*frames)
    assert keys(database) == {f"good{number}" for number in range(len(bad))}
    assert [kind for _, _, _, kind, *_ in letters(database)] == ["lexicon"] * len(bad)
    assert rows(database.url, "SELECT DISTINCT text FROM bsky.post") == [("good",)]


PLACES: list[Callable[[dict[str, Any], Any], dict[str, Any]]] = [
    lambda record, value: {**record, "__proto__": value},
    lambda record, value: {"__proto__": value, **record},
    lambda record, value: {**record, "odd": {"a": [[{"__proto__": value, "b": 1}]]}},
]


@pytest.mark.parametrize("value", [1, "x", None, {"x": 1}, {"__proto__": {"text": "forged"}}], ids=repr)
def test_a_key_proto_is_never_stored(replay: Replay, value: Any) -> None:
    """Readers written in JavaScript refuse JSON with it: whatever its value, in all collections, at any depth."""
    stream = Stream()
    people = [Person(stream, f"person {number}") for number in range(len(PLACES))]
    written: dict[str, Any] = {}
    frames = []
    for person, place in zip(people, PLACES, strict=True):
        writes = []
        for write in one_of_each(person):
            assert write.record is not None
            writes.append(Write("create", write.path, place(write.record, value)))
            written[person.uri(write.path)] = without_odd_keys(writes[-1].record)
        frames.append(person.commit(*writes))
    database = replay(*frames)
    assert letters(database) == []
    stored = rows(database.url, "SELECT uri, json FROM bsky.record")
    assert {uri: json.loads(text) for uri, text in stored} == written
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE json LIKE '%%proto%%'") == 0


def test_any_stored_record_can_take_the_place_of_its_duplicate(replay: Replay) -> None:
    """Its JSON is read again then, whatever maps it holds that look like links, and however deep they are."""
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    target = {"uri": ben.uri("app.bsky.feed.post/b"), "cid": to_text(cid_for_cbor(b"x"))}
    deep: dict[str, Any] = {"$link": "x"}
    for _ in range(500):
        deep = {"a": deep}
    odd: list[Any] = [{"$link": "x"}, {"$bytes": "!"}, {"$bytes": "Y"}, {"$link": b"x"}, [{"$link": 5}], deep]
    likes = [
        create(f"app.bsky.feed.like/{n}", {"subject": target, "createdAt": WHEN, "odd": value})
        for n, value in enumerate(odd)
    ]
    deletions = [Write("delete", like.path, None) for like in likes]
    database = replay(*(ann.commit(write) for write in [*likes, *deletions[:-1]]), batch_size=1)
    assert letters(database) == []
    assert rows(database.url, "SELECT uri FROM bsky.like") == [(ann.uri(likes[-1].path),)]
    assert one(database.url, 'SELECT "likeCount" FROM bsky.post_agg WHERE uri = %s', target["uri"]) == 1


@pytest.mark.parametrize("authority", ["ann.test", "ANN.test", *UNREADABLE_DIDS])
def test_readers_get_no_uri_without_a_did_that_they_can_read(replay: Replay, authority: str) -> None:
    ann = Person(Stream(), "ann")
    bad = []
    for rest in ("/app.bsky.feed.post/a", "/app.bsky.graph.list/a", "/site.standard.document/a", ""):
        uri = f"at://{authority}{rest}"
        bad += [*posts_with(uri), *records_with(ann, uri)]
    frames = []
    for number, record in enumerate(bad):
        block = bytes(libipld.encode_dag_cbor(record))
        good = ("create", f"app.bsky.feed.post/good{number}", block_of())
        frames.append(ann.commit_blocks(("create", f"{record['$type']}/bad", block), good))
    database = replay(*frames)
    assert keys(database) == {f"good{number}" for number in range(len(bad))}
    kind = "lexicon" if authority in UNREADABLE_DIDS else "collection-rule"
    assert [found for _, _, _, found, *_ in letters(database)] == [kind] * len(bad)


@pytest.mark.parametrize("authority", ["did:web:a.example", "did:web:localhost%3A80", "did:x:A-b:c"])
def test_other_did_methods_are_as_good_as_any(replay: Replay, authority: str) -> None:
    ann = Person(Stream(), "ann")
    records = [*posts_with(f"at://{authority}/a.b.c/d"), *records_with(ann, f"at://{authority}/a.b.c/d")]
    for record in records:
        path = f"{record['$type']}/bad"
        database = replay(ann.commit_blocks(("create", path, bytes(libipld.encode_dag_cbor(record)))))
        assert keys(database) >= {"bad"}
    assert letters(database) == []


@pytest.mark.parametrize("authority", ["ann.test", "did:plc:" + "a" * 24])
def test_a_like_may_name_its_subject_by_a_handle(replay: Replay, authority: str) -> None:
    """Nobody but the account itself is shown what it likes; the reference indexes it, too."""
    ann = Person(Stream(), "ann")
    subject = {"uri": f"at://{authority}/app.bsky.feed.post/a", "cid": to_text(cid_for_cbor(b"x"))}
    database = replay(ann.commit(create("app.bsky.feed.like/a", {"subject": subject, "createdAt": WHEN})))
    assert one(database.url, "SELECT subject FROM bsky.like") == subject["uri"]


@pytest.mark.parametrize("did", UNREADABLE_DIDS)
def test_an_account_that_readers_cannot_show_is_not_indexed(replay: Replay, did: str) -> None:
    """Its record keys would be in every list of likes, follows or replies, and its name in every search."""
    ann = Person(Stream(), "ann")
    frames = [ann.commit(post("a", "x"))]
    frames.append(ann.commit(post("b", "x"), repo=did))
    frames.append(ann.stream.frame("#sync", {**ann.repository.sync_event(), "did": did}))
    frames.append(ann.stream.account(did, active=False, status="suspended"))
    frames.append(ann.stream.frame("#identity", {"did": did, "handle": "ann.test"}))
    database = replay(*frames)
    assert keys(database) == {"a"}
    assert rows(database.url, "SELECT did FROM bsky.actor") == [(ann.did,)]
    assert [(found, kind) for _, found, _, kind, *_ in letters(database)] == [(did, "did")] * 4


# ---- accounts


@pytest.mark.parametrize("status", ["deactivated", "suspended", "takendown", "deleted"])
def test_a_status_that_readers_know_is_kept(replay: Replay, status: str) -> None:
    ann = Person(Stream(), "ann")
    database = replay(ann.commit(post("a", "x")), ann.stream.account(ann.did, active=False, status=status))
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') == status


@pytest.mark.parametrize(
    "status", ["throttled", "desynchronized", "", "Suspended", "suspended ", "x" * 5_000, "\0", None, 5]
)
@pytest.mark.parametrize("is_known", [True, False], ids=["seen before", "seen after"])
def test_no_other_status_reaches_readers(replay: Replay, status: Any, is_known: bool) -> None:
    """Whether the account is known before or not; active again, it has none."""
    stream = Stream()
    ann = Person(stream, "ann")
    account = stream.frame("#account", {"did": ann.did, "active": False, "status": status})
    frames = [ann.commit(post("a", "x")), account] if is_known else [account, ann.commit(post("a", "x"))]
    database = replay(*frames, batch_size=1)
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') == "deactivated"
    sent = status.replace("\0", "")[:1_024] if isinstance(status, str) else None
    assert rows(database.url, "SELECT active, status FROM pipeline.repo") == [(False, sent)]
    database = replay(stream.frame("#account", {"did": ann.did, "active": True, "status": "throttled"}))
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') is None
