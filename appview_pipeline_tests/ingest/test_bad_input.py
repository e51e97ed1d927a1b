"""Bad input: damage is a dead letter and its neighbours are indexed; hostile text is stored as it is.

The whole folder of malformed frames among real ones: conformance/test_malformed_frames.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libipld
import pytest
from hypothesis import HealthCheck, example, given, settings

from appview_pipeline.protocol.cid import cid_for_cbor, cid_for_raw, from_text
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post, rev
from appview_pipeline_tests.support.hostile_text import HOSTILE, hostile
from appview_pipeline_tests.support.records import block_of
from appview_pipeline_tests.support.replays import Replay, letters, stored_record
from appview_pipeline_tests.support.tables import Dump, Fresh, dump, one, record_keys, replayed_frames, rows

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    assert record_keys(database) == {"before", "good1", "good2", "after"}


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
    assert record_keys(database) == {f"good{number}" for number in range(len(BAD_BLOCKS))}
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
    """What stands beside it in the same commit is indexed; what the letter says can be shown. That is so where only the
    structure is checked: an operation that is not in the tree disproves its commit."""
    stream = Stream()
    ann = Person(stream, "ann")
    frames = []
    for number, bad in enumerate(BAD_OPERATIONS.values()):
        frame = ann.commit(post(f"good{number}", "good"))
        header, body = libipld.decode_dag_cbor_multi(frame)
        body["ops"].insert(number % 2, bad)
        frames.append(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body))
    database = replay(*frames, verify="structure")
    assert record_keys(database) == {f"good{number}" for number in range(len(BAD_OPERATIONS))}
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
    assert record_keys(database) == {"a1", "a2", "b1"}
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
    assert "b1" in record_keys(database)
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
    others = control, malformed(conformance, "b-commit-no-since-no-prevdata.frame")
    database = replay(others[0], frame, others[1], verify="structure")
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
    assert {"a1", "a2"} <= record_keys(database)
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
    assert record_keys(database) == {"b"}
    assert [path for _, _, path, *_ in letters(database)] == ["app.bsky.feed.like/bad"]


def test_the_dump_sees_what_text_is_stored(fresh: Fresh, tmp_path: Path) -> None:
    """The instrument of the tests that compare tables: states that differ by one character differ."""
    dumps: list[Dump] = []
    for text in ("x", "x", "y"):
        with fresh() as database:
            replayed_frames(database, tmp_path, [Person(Stream(), "ann").commit(post("a", text))])
            dumps.append(dump(database.url))
    assert dumps[0] == dumps[1] != dumps[2]
