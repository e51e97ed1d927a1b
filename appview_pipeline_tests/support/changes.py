"""Commits as changes, and changes as commits; a repository export as commits."""

from __future__ import annotations

from typing import Any

import libipld
import orjson

from appview_pipeline.indexing.changes import Change, DeadLetter, RecordDelete, RepoState
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.protocol import mst
from appview_pipeline.protocol.car import read_car
from appview_pipeline.protocol.cbor import decode_record_json
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.support.commits import Commit, Op

COLLECTIONS = IndexedCollections()


def change_of(commit: Commit, seq: int, since: str | None = None) -> Change:
    """The change of a commit; its records are decoded and validated as those of a frame."""
    change = Change(0, seq, commit.time, is_event=True)
    change.repo = RepoState(commit.did, commit.rev, since, None, f"commit-{commit.rev}", f"tree-{commit.rev}", False)
    for op in commit.ops:
        path = f"{op.collection}/{op.rkey}"
        uri = f"at://{commit.did}/{path}"
        collection = COLLECTIONS.get(op.collection)
        if collection is None:
            change.ignored.append((op.collection, op.action))
            continue
        if op.action == "delete":
            change.deletes.append(RecordDelete(uri, commit.did, op.collection, commit.rev, commit.time, seq))
            change.ops.append((op.collection, op.action))
            continue
        assert op.cid is not None and op.record is not None
        block = encode(op.record)
        record, text = decode_record_json(block)
        write = RecordWrite(
            uri, op.cid, commit.did, op.collection, op.rkey, commit.rev, record, text, commit.time, seq, op.action
        )
        validate = validators().get(op.collection)
        reason = (validate(record) if validate is not None else None) or collection.check(write)
        if reason is None:
            change.writes.append(write)
            change.ops.append((op.collection, op.action))
        else:
            change.dead_letters.append(DeadLetter("lexicon", reason, seq, commit.did, path, block))
    return change


def encode(record: dict[str, Any]) -> bytes:
    """The block of a record in atproto JSON."""
    return bytes(libipld.encode_dag_cbor(record_from_json(orjson.dumps(record).decode())))


def validators() -> Validators:
    return record_validators(None)


def commit_of(change: Change) -> Commit | None:
    """The valid operations of a change, as a commit for the model. None when the change is no commit."""
    if change.repo is None:
        return None
    ops = [
        Op(write.action, write.collection, write.rkey, write.cid, orjson.loads(write.json)) for write in change.writes
    ]
    ops += [Op("delete", gone.collection, gone.uri.rpartition("/")[2]) for gone in change.deletes]
    assert change.time is not None
    return Commit(change.repo.did, change.repo.rev, change.time, tuple(ops))


def changes_of_car(car: bytes) -> list[Change]:
    """A repository export, a commit for each record in the order of paths (shared/conformance/golden/README.md)."""
    roots, blocks = read_car(car)
    commit = libipld.decode_dag_cbor(blocks[roots[0]])
    found = []
    for number, (path, cid) in enumerate(mst.walk(commit["data"], blocks.get)):
        collection, rkey = path.split("/")
        _, text = decode_record_json(blocks[cid])
        op = Op("create", collection, rkey, to_text(cid), orjson.loads(text))
        found.append(
            change_of(Commit(commit["did"], tid_from_micros(number), "2026-11-01T00:00:00.000Z", (op,)), number)
        )
    return found
