"""Exports of repositories as changes, by the rules of a resync (docs/gaps.md), without its code: what a repository
holds, compared with what is stored of it at that moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from appview_pipeline.indexing.changes import Change, ExportState, RecordDelete
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.protocol.cbor import decode_record_json
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.syntax import is_tid, tid_to_micros
from appview_pipeline.store.database import Database
from appview_pipeline.store.repo_states import begin_resync
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.changes import COLLECTIONS, encode, validators
from appview_pipeline_tests.support.commits import Commit, Op
from appview_pipeline_tests.support.frames import Person
from appview_pipeline_tests.support.tables import rows


class Repository(NamedTuple):
    """A repository at a rev: its records by path, its commit and its tree."""

    did: str
    rev: str
    time: str
    records: Mapping[str, Op]
    commit: str
    data: str

    @classmethod
    def after(cls, commits: list[Commit]) -> Repository:
        """That of one account, after its commits."""
        records: dict[str, Op] = {}
        for commit in commits:
            for op in commit.ops:
                path = f"{op.collection}/{op.rkey}"
                if op.action == "delete":
                    records.pop(path, None)
                else:
                    records[path] = op
        last = commits[-1]
        return cls(last.did, last.rev, last.time, records, f"commit-{last.rev}", f"tree-{last.rev}")

    @classmethod
    def of(cls, person: Person) -> Repository:
        """An account's, as it is now."""
        repository, records = person.repository, dict[str, Op]()
        for path in repository.paths():
            found = repository.get(path)
            assert found is not None
            collection, rkey = path.split("/")
            _, text = decode_record_json(found[1])
            records[path] = Op("create", collection, rkey, to_text(found[0]), orjson.loads(text))
        assert repository.rev is not None
        commit, data = to_text(repository.commit_cid), to_text(repository.tree.cid)
        return cls(person.did, repository.rev, iso(tid_to_micros(repository.rev)), records, commit, data)


class Compared(NamedTuple):
    """An export and what differs from it; `asked_at` names the fetching."""

    repository: Repository
    asked_at: str
    writes: list[RecordWrite]
    deletes: list[RecordDelete]

    def changes(
        self, part_rows: int = 100, *, is_whole: bool = True, is_partial: bool = False, is_fetched: bool = True
    ) -> list[Change]:
        """The parts, each of at most `part_rows` rows; the last one may be empty."""
        of, parts = self.repository, []
        rows: list[RecordWrite | RecordDelete] = [*self.writes, *(self.deletes if is_whole else ())]
        starts = list(range(0, len(rows), part_rows)) or [0]
        for start in starts:
            part = rows[start : start + part_rows]
            state = ExportState(
                did=of.did,
                rev=of.rev,
                commit=of.commit,
                data=of.data,
                is_last=start == starts[-1],
                is_whole=is_whole,
                is_partial=is_partial,
                asked_at=self.asked_at,
                is_fetched=is_fetched,
            )
            change = Change(size=0, export=state)
            for row in part:
                if isinstance(row, RecordWrite):
                    change.writes.append(row)
                    change.ops.append((row.collection, row.action))
                else:
                    change.deletes.append(row)
                    change.ops.append((row.collection, "delete"))
            parts.append(change)
        return parts


def compared(database: Database, repository: Repository, *, quiet: bool = False) -> Compared:
    """Begins a resync of the repository and compares it with what is stored."""
    with database.connect("writer") as connection:
        state = begin_resync(connection, repository.did)
    assert state is not None and state.asked_at is not None
    prefix = f"at://{repository.did}/"
    stored = {
        uri[len(prefix) :]: (cid, rev)
        for uri, cid, rev in rows(database.url, "SELECT uri, cid, rev FROM bsky.record WHERE did = %s", repository.did)
    }
    gone = dict(
        rows(database.url, "SELECT uri, rev FROM pipeline.tombstone WHERE starts_with(uri, %s) ORDER BY uri", prefix)
    )
    writes, deletes = [], []
    for path, op in sorted(repository.records.items()):
        if COLLECTIONS.get(op.collection) is None:
            continue
        known = stored.get(path, (None, gone.get(prefix + path)))
        if known[0] == op.cid or (known[1] or "") > repository.rev:
            continue
        rev = repository.rev
        if known == (None, None) and is_tid(op.rkey) and (state.export_rev or "") < op.rkey <= repository.rev:
            rev = op.rkey
        assert op.cid is not None and op.record is not None
        record, text = decode_record_json(encode(op.record))
        write = RecordWrite(
            uri=prefix + path,
            cid=op.cid,
            did=repository.did,
            collection=op.collection,
            rkey=op.rkey,
            rev=rev,
            record=record,
            json=text,
            indexed_at=repository.time,
            seq=None,
            action="create" if known[0] is None else "update",
            is_quiet=quiet,
        )
        validate, collection = validators().get(op.collection), COLLECTIONS.get(op.collection)
        assert collection is not None
        if (validate is None or validate(record) is None) and collection.check(write) is None:
            writes.append(write)
    for path, (_, rev) in sorted(stored.items()):
        collection, _, _ = path.partition("/")
        if path not in repository.records and (rev or "") <= repository.rev and COLLECTIONS.get(collection):
            deletes.append(
                RecordDelete(
                    uri=prefix + path,
                    did=repository.did,
                    collection=collection,
                    rev=repository.rev,
                    indexed_at=repository.time,
                    seq=None,
                )
            )
    return Compared(repository, state.asked_at, writes, deletes)
