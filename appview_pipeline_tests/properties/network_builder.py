"""Builds a network record by record, each in a commit of its own or in the last one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.properties.networks import SHORT, START, Move, Network, did_of
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.changes import encode
from appview_pipeline_tests.support.commits import (
    POST,
    PROFILE,
    Commit,
    Op,
)

SECOND = 1_000_000
NOWHERE = to_text(cid_for_cbor(b""))


@dataclass
class NetworkBuilder:
    """The network so far."""

    commits: list[list[Any]] = field(default_factory=list)  # did, rev, time, ops
    alive: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """CID and record by URI."""
    gone: dict[str, dict[str, Any]] = field(default_factory=dict)
    content: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """The last state of every record, deleted ones included."""
    posts: list[str] = field(default_factory=list)
    promised: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Posts that other records name before they are written, by author."""
    numbers: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    said: int = 0

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, move: Move, uri: str, record: dict[str, Any] | None) -> None:
        """Writes (None: deletes) a record, in a commit of its own or in the last one."""
        did, collection, rkey = uri.removeprefix("at://").split("/")
        last = self.commits[-1] if self.commits else None
        joins = move.joins and last is not None and last[0] == did and (collection, rkey) not in last[4]
        if not joins:
            moment = START + len(self.commits) * SECOND
            last = [did, tid_from_micros(moment), iso(moment), [], set()]
            self.commits.append(last)
        assert last is not None
        last[4].add((collection, rkey))
        if record is None:
            last[3].append(Op("delete", collection, rkey))
            self.gone[uri] = self.alive.pop(uri)[1]
            return
        if collection != PROFILE and "createdAt" not in record:
            moment = START + (len(self.commits) - 1) * SECOND
            # Now and then a clock is wrong by an hour.
            moment += 3600 * SECOND if move.twist == 7 else -SECOND // 2
            record = {**record, "createdAt": iso(moment)}
        record = {"$type": collection, **record}
        cid = to_text(cid_for_cbor(encode(record)))
        last[3].append(Op("update" if uri in self.alive else "create", collection, rkey, cid, record))
        self.alive[uri] = self.content[uri] = (cid, record)
        self.gone.pop(uri, None)
        if collection == POST and uri not in self.posts:
            self.posts.append(uri)

    def new_uri(self, did: str, collection: str) -> str:
        self.numbers[did, collection] += 1
        return f"at://{did}/{collection}/{SHORT[collection]}{self.numbers[did, collection]}"

    def add(self, move: Move, collection: str, record: dict[str, Any]) -> None:
        self.put(move, self.new_uri(did_of(move.who), collection), record)

    def ref(self, uri: str) -> dict[str, str]:
        return {"uri": uri, "cid": self.content[uri][0] if uri in self.content else NOWHERE}


def network_of(*ops: tuple[str, dict[str, Any] | None], **private: Any) -> Network:
    """A network written by hand: (`name/collection/rkey`, the record, None to delete it), a commit each.

    In records `@name/collection/rkey` is a URI, `@name` a DID, and `{"ref": URI}` a reference with the newest CID.
    """
    builder = NetworkBuilder()
    for number, (path, record) in enumerate(ops):
        move = Move("post", 0, 0, 0, number % 2, False)
        builder.put(move, _at(path), None if record is None else _referring(builder, record))
    commits = tuple(Commit(did, rev, time, tuple(ops)) for did, rev, time, ops, _ in builder.commits)
    return Network(commits, **private)


def _at(path: str) -> str:
    return f"at://did:plc:{path}"


def _referring(builder: NetworkBuilder, value: Any) -> Any:
    if isinstance(value, str) and value.startswith("@"):
        return f"did:plc:{value[1:]}" if "/" not in value else _at(value[1:])
    if isinstance(value, list):
        return [_referring(builder, item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"ref"}:
            return builder.ref(_referring(builder, value["ref"]))
        return {name: _referring(builder, item) for name, item in value.items()}
    return value
