"""Commits into the database and into the model, and the tables out of both in one shape.

The shape is that of shared/conformance/golden/README.md: notifications, aggregates, records, duplicates, rows by table.
The conformance scenarios (shared/conformance/scenarios/README.md) are read here, as steps and as wire frames.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libipld
import orjson
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import AccountState, Change, DeadLetter, RecordDelete, RepoState
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators, record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol import mst
from appview_pipeline.protocol.car import read_car
from appview_pipeline.protocol.cbor import decode_record_json
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties.model import Model
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.commits import Commit, Op

State = dict[str, Any]

COLLECTIONS = IndexedCollections()

# --- commits ---------------------------------------------------------------------------------------------------------


def change_of(commit: Commit, seq: int, since: str | None = None) -> Change:
    """What a commit amounts to, its records decoded and validated as they are when they come in a frame."""
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
    """A change as the model takes it: what is valid of it. None when it is no commit."""
    if change.repo is None:
        return None
    ops = [
        Op(write.action, write.collection, write.rkey, write.cid, orjson.loads(write.json)) for write in change.writes
    ]
    ops += [Op("delete", gone.collection, gone.uri.rpartition("/")[2]) for gone in change.deletes]
    assert change.time is not None
    return Commit(change.repo.did, change.repo.rev, change.time, tuple(ops))


# --- scenarios -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A file of conformance/scenarios. `facts`: what must hold `at` a checkpoint ("final": the end)."""

    id: str
    steps: list[dict[str, Any]]
    facts: list[dict[str, Any]]
    expected: dict[str, State]
    frames: list[bytes]

    def changes(self) -> list[tuple[str, list[Change]]]:
        """The changes up to each checkpoint, from the steps."""
        return self._segments([_change_of_step(step) for step in self.steps if _is_event(step)])

    def changes_of_frames(self) -> list[tuple[str, list[Change]]]:
        """The changes up to each checkpoint, from the wire frames."""
        return self._segments(read_changes(self.frames, validators(), COLLECTIONS))

    def _segments(self, changes: Sequence[Change]) -> list[tuple[str, list[Change]]]:
        assert len(changes) == sum(map(_is_event, self.steps)), f"{self.id}: not a frame for every event"
        following = iter(changes)
        segments: list[tuple[str, list[Change]]] = [("", [])]
        for step in self.steps:
            if _is_event(step):
                segments[-1][1].append(next(following))
            elif "checkpoint" in step:
                segments[-1] = (step["checkpoint"], segments[-1][1])
                segments.append(("", []))
        segments[-1] = ("final", segments[-1][1])
        return segments


def load(conformance: Path) -> list[Scenario]:
    """All scenarios, by number."""
    found = []
    for path in sorted((conformance / "scenarios").glob("[0-9]*.json")):
        document = json.loads(path.read_text())
        frames = list(read_corpus(conformance / "scenarios" / document["frames"]["file"]))
        found.append(Scenario(document["id"], document["steps"], document["facts"], document["expected"], frames))
    return found


def _is_event(step: dict[str, Any]) -> bool:
    return not step.keys().isdisjoint(("commit", "account", "identity"))


def _change_of_step(step: dict[str, Any]) -> Change:
    if "account" in step:
        event = step["account"]
        account = AccountState(event["did"], event["active"], event.get("status"), event["time"])
        return Change(0, event["seq"], event["time"], is_event=True, account=account)
    if "identity" in step:
        return Change(0, step["identity"]["seq"], step["identity"]["time"], is_event=True)
    event = step["commit"]
    ops = tuple(
        Op(op["action"], op["collection"], op["rkey"], op.get("cid"), op.get("record"))
        for op in event["ops"]
        if not op.get("omitBlock")
    )
    return change_of(Commit(event["did"], event["rev"], event["time"], ops), event["seq"], event["since"])


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


# --- feeding ---------------------------------------------------------------------------------------------------------


def batches_of(changes: Sequence[Change], size: int) -> list[Sequence[Change]]:
    """Batches of `size` changes; 0: a single one."""
    size = size or max(len(changes), 1)
    return [changes[start : start + size] for start in range(0, len(changes), size)]


def feed(database: Database, batches: Iterable[Sequence[Change]]) -> None:
    """Writes batches as the consumer does, one transaction each."""
    writer = Writer(database, Settings(database_url=database.url), "test")
    for batch in batches:
        writer.write(batch, time.time())


def modelled(model: Model, changes: Iterable[Change]) -> Model:
    """The model after the changes, one at a time."""
    for change in changes:
        if (commit := commit_of(change)) is not None:
            model.apply(commit)
    return model


class Cleaner:
    """Empties a database in a few milliseconds; made while it is new, it leaves alone what the migration filled."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
                "WHERE schemaname IN ('bsky', 'pipeline') ORDER BY 1"
            )
            tables = [name for (name,) in cursor.fetchall()]
            cursor.execute(" UNION ALL ".join(f"SELECT EXISTS (SELECT FROM {table})" for table in tables))
            filled = [full for (full,) in cursor.fetchall()]
        connection.commit()
        self._statement = "; ".join(
            f"DELETE FROM {table}" for table, full in zip(tables, filled, strict=True) if not full
        )

    def __call__(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(self._statement)
        self._connection.commit()


# --- tables ----------------------------------------------------------------------------------------------------------

ROWS = (
    *(
        "post",
        "like",
        "repost",
        "follow",
        "profile",
        "actor_block",
        "list",
        "list_item",
        "list_block",
        "reference_list_opt_out",
        "feed_generator",
    ),
    *("labeler", "starter_pack", "thread_gate", "post_gate", "verification", "quote", "feed_item", "op_thread_reply"),
    *("post_embed_image", "post_embed_gallery_image", "post_embed_external", "post_embed_record", "post_embed_video"),
)
_PARTS = {
    "notifications": """
      SELECT did AS recipient, author, reason, "recordUri", "recordCid", "reasonSubject", "sortAt"
      FROM bsky.notification""",
    "postAgg": 'SELECT uri, "likeCount", "repostCount", "replyCount", "quoteCount" FROM bsky.post_agg',
    "profileAgg": 'SELECT did, "followersCount", "followsCount", "postsCount" FROM bsky.profile_agg',
    "actors": 'SELECT did, handle, "indexedAt", "upstreamStatus", "takedownRef" FROM bsky.actor',
    "records": 'SELECT uri, cid, "indexedAt" FROM bsky.record',
    "duplicates": 'SELECT uri, "duplicateOf" FROM bsky.duplicate_record',
    "rejected": "SELECT 'at://' || did || '/' || path AS subject, kind, reason FROM pipeline.dead_letter",
    **{table: f'SELECT * FROM bsky."{table}"' for table in ROWS},
}
_DUMP = "SELECT " + ", ".join(
    f"(SELECT coalesce(json_agg(t), '[]') FROM ({query}) t) AS \"{part}\"" for part, query in _PARTS.items()
)


def dump(connection: Connection) -> State:
    """The tables."""
    with connection.cursor() as cursor:
        cursor.execute(_DUMP)
        assert cursor.description is not None
        (found,) = cursor.fetchall()
        parts = dict(zip([column.name for column in cursor.description], found, strict=True))
    connection.commit()
    return {
        "notifications": parts["notifications"],
        "postAgg": {row.pop("uri"): row for row in parts["postAgg"]},
        "profileAgg": {row.pop("did"): row for row in parts["profileAgg"]},
        "actors": {row.pop("did"): row for row in parts["actors"]},
        "records": parts["records"],
        "duplicates": parts["duplicates"],
        "rejected": parts["rejected"],
        "rows": {table: parts[table] for table in ROWS if parts[table]},
    }


Keep = Callable[[str, dict[str, Any]], bool]


def differences(got: State, want: State, keep: Keep = lambda table, row: True) -> list[str]:
    """What distinguishes the tables, a line each; empty when nothing does.

    Not compared: columns that the wanted rows lack, rows that `keep` (table, row) leaves out, aggregates of nothing,
    when exactly a reply left an author's thread, and what the wanted side says to be the wall clock (`<now>`).
    """
    lines = []
    tables_got, tables_want = _tables(got), _tables(want)
    for table in sorted(tables_got.keys() | tables_want.keys()):
        rows_want = [row for row in tables_want.get(table, ()) if keep(table, row)]
        rows_got = [row for row in tables_got.get(table, ()) if keep(table, row)]
        columns = set().union(*rows_want) - {column for row in rows_want for column in row if row[column] == "<now>"}
        counted = _counted(rows_got, columns)
        wanted = _counted(rows_want, columns)
        lines += [f"{table}: missing {row}" for row in sorted((wanted - counted).elements())]
        lines += [f"{table}: too much {row}" for row in sorted((counted - wanted).elements())]
    return lines


def _tables(state: State) -> dict[str, list[dict[str, Any]]]:
    tables = {part: state[part] for part in ("notifications", "records", "duplicates")}
    tables |= state["rows"]
    for part, key in (("postAgg", "uri"), ("profileAgg", "did")):
        tables[part] = [{key: subject, **counts} for subject, counts in state[part].items() if any(counts.values())]
    tables["op_thread_reply"] = [
        {**row, "deletedAt": row["deletedAt"] is not None} for row in tables.get("op_thread_reply", ())
    ]
    return tables


def _counted(rows: Iterable[dict[str, Any]], columns: set[str]) -> Counter[str]:
    return Counter(
        json.dumps({column: value for column, value in row.items() if not columns or column in columns}, sort_keys=True)
        for row in rows
    )
