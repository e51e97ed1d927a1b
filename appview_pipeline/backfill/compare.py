"""A repository's export compared with the index: a merge of two sequences in the order of paths, a path at a time.

Whatever the size of the repository, only one page of what the index holds is in memory (store/indexed_records.py), and
one node of the export's tree for each of its levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.store.indexed_records import IndexedState


class ExportedRepository(Protocol):
    """What is needed of an export (`protocol.export.Export`): CIDs are 36 bytes."""

    did: str
    rev: str
    commit: bytes
    data: bytes
    size: int

    def records(self) -> Iterator[tuple[str, bytes]]:
        """(path, CID) of every record, in the order of paths as bytes."""
        ...

    def block(self, cid: bytes) -> bytes:
        """The record's block, its hash checked."""
        ...


@dataclass
class Counts:
    """What became of the records of an export.

    `records`: of collections that are indexed, in the export; `ignored`: of others. Of the former `same` are indexed
    as they are in the export; `newer` have changed since its rev, and so have records that it lacks; `creates` and
    `updates` are written; `refused` may not be indexed; `old` are older than the days that were asked for. `deletes`
    are indexed, and are not in the export.
    """

    records: int = 0
    creates: int = 0
    updates: int = 0
    deletes: int = 0
    same: int = 0
    newer: int = 0
    refused: int = 0
    ignored: int = 0
    old: int = 0

    def after(self, earlier: Counts) -> Counts:
        """The counts of both, where this comparison is of the same export as an earlier one."""
        return replace(
            self,
            creates=self.creates + earlier.creates,
            updates=self.updates + earlier.updates,
            deletes=self.deletes + earlier.deletes,
        )


class Difference(NamedTuple):
    """A path at which export and index differ. `cid`: what the export holds (36 bytes), None: nothing. `known`: what
    the index holds, a record or the tombstone of one; None: nothing."""

    path: str
    collection: str
    cid: bytes | None
    known: IndexedState | None


def merged(
    exported: Iterable[tuple[str, bytes]], indexed: Iterable[IndexedState]
) -> Iterator[tuple[str, bytes | None, IndexedState | None]]:
    """Yields each path of an export or of the index, in the order of paths: (path, CID in the export, state in the
    index), None where one of them has nothing."""
    states = iter(indexed)
    state = next(states, None)
    for path, cid in exported:
        while state is not None and state.path < path:
            yield state.path, None, state
            state = next(states, None)
        if state is not None and state.path == path:
            yield path, cid, state
            state = next(states, None)
        else:
            yield path, cid, None
    while state is not None:
        yield state.path, None, state
        state = next(states, None)


def compare(
    exported: Iterable[tuple[str, bytes]],
    indexed: Iterable[IndexedState],
    rev: str,
    collections: IndexedCollections,
    counts: Counts,
) -> Iterator[Difference]:
    """Yields where the export of `rev` and the index differ, in the order of paths.

    What the index has of a later rev is left alone, for the export can't know it. `counts` grows while it is iterated:
    `records`, `same`, `newer` and `ignored`. Records of collections that are not indexed are no difference, nor are
    rows that are left of such a collection.
    """
    collection, is_wanted = "", False
    for path, cid, known in merged(exported, indexed):
        if not (path.startswith(collection) and path[len(collection) : len(collection) + 1] == "/"):
            collection = path.partition("/")[0]
            is_wanted = collections.get(collection) is not None
        if not is_wanted:
            counts.ignored += cid is not None
            continue
        counts.records += cid is not None
        if known is None:
            yield Difference(path, collection, cid, None)
        elif cid is None and known.cid is None:
            continue  # deleted here and there
        elif cid is not None and known.cid == to_text(cid):
            counts.same += 1
        elif known.rev is not None and known.rev > rev:
            counts.newer += 1
        else:
            yield Difference(path, collection, cid, known)
