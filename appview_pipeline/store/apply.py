"""The one write path: a batch's effects, in order, in one transaction.

`apply` copies a `Batch` into temporary tables and runs the SQL files of `sql/apply/` on them. Whatever produced the
batch (the live stream, a replay, a repository, a re-derivation), its records mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import orjson
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.prepared import preparing_cursor
from appview_pipeline.store.sql import named, sections
from appview_pipeline.store.staging import Value, copy_encoded, copy_rows, make_tables

SHARED_STAGES: dict[str, tuple[str, ...]] = {
    "stage_repo": (
        "did",
        "oldest_rev",
        "first_rev",
        "first_since",
        "first_prev_data",
        "first_data",
        "first_is_sync",
        "chain_from",
        "chain_since",
        "chain_prev_data",
        "rev",
        "commit_cid",
        "data_cid",
        "seq",
        "indexed_at",
    ),
    "stage_write": ("uri", "cid", "did", "collection", "action", "rev", "json", "indexed_at"),
    "stage_delete": ("uri", "did", "collection", "rev", "seq", "indexed_at"),
    "stage_superseded": ("uri", "did", "collection", "action", "rev", "cid", "json", "seq", "created_at", "indexed_at"),
    "stage_account": ("did", "active", "status", "at", "indexed_at"),
    "stage_ignored": ("did", "rev", "collection", "creates", "updates", "deletes"),
    "stage_dead_letter": (
        "fingerprint",
        "source",
        "seq",
        "did",
        "path",
        "kind",
        "reason",
        "bytes",
        "byte_length",
        "form",
        "rev",
        "cid",
        "action",
        "event_time",
    ),
    "stage_gap": ("kind", "did", "relay", "shard", "from_text", "to_text", "links", "resolved"),
}
"""Staging tables of sql/apply/staging.sql that Python fills, and their columns in the order of a row's values."""

LINK_COLUMNS = ("did", "rev", "since", "prev_data", "data")
"""Columns of `stage_link`, which few batches need."""


@dataclass(frozen=True)
class NaturalKey:
    """The columns of which a collection's table holds one record each, there and in its staging table."""

    columns: tuple[str, str]
    stage_columns: tuple[str, str]


@dataclass(frozen=True)
class Effect:
    """What the records of one collection do: a file of sql/apply/ and its staging tables.

    Of the file's statements `remove` runs for records that changed or went, `add` for staged rows, then `follows` for
    the rows that were added, and `always` at the end of every batch in which the collection has events. `is_judged`:
    judging others changes its rows too, so they are written under the lock of thread.sql (else two writers, one with
    the row and one with the lock, would wait for each other).
    """

    collection: str
    file: str
    table: str
    stages: tuple[str, ...]
    follows: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    natural_key: NaturalKey | None = None
    is_judged: bool = False


VERIFICATION = "app.bsky.graph.verification"
PAIRS = frozenset(("app.bsky.feed.like", "app.bsky.feed.repost", "app.bsky.graph.follow"))
"""Collections whose notifications a history of several records decides (sql/apply/told_pair.sql)."""
TIMED = PAIRS | {VERIFICATION}
"""Collections of which past states keep the time that their notifications have."""

AFFECTED = ("affected_below", "affected_in_thread", "affected_by_facts")
"""Statements of thread.sql that find the posts that events affect."""

EFFECTS: tuple[Effect, ...] = (
    Effect(
        "app.bsky.feed.post",
        "post",
        "post",
        (
            "stage_post",
            "stage_post_image",
            "stage_post_gallery_image",
            "stage_post_external",
            "stage_post_video",
            "stage_post_record",
            "stage_post_mention",
        ),
        follows=("feed", "count", "op_thread", "add_embeds", "add_quotes"),
        is_judged=True,
    ),
    Effect(
        "app.bsky.feed.like",
        "like",
        "like",
        ("stage_like",),
        follows=("count", "notify"),
        natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    ),
    Effect(
        "app.bsky.feed.repost",
        "repost",
        "repost",
        ("stage_repost",),
        follows=("feed", "count", "notify"),
        natural_key=NaturalKey(("creator", "subject"), ("creator", "subject")),
    ),
    Effect(
        "app.bsky.graph.follow",
        "follow",
        "follow",
        ("stage_follow",),
        follows=("count", "notify"),
        natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
    ),
    Effect(
        "app.bsky.graph.block",
        "block",
        "actor_block",
        ("stage_block",),
        natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
    ),
    Effect("app.bsky.actor.profile", "profile", "profile", ("stage_profile",), always=("joined",)),
    Effect("app.bsky.graph.list", "list", "list", ("stage_list",)),
    Effect(
        "app.bsky.graph.listitem",
        "listitem",
        "list_item",
        ("stage_listitem",),
        natural_key=NaturalKey(("listUri", "subjectDid"), ("list_uri", "subject_did")),
    ),
    Effect(
        "app.bsky.graph.listblock",
        "listblock",
        "list_block",
        ("stage_listblock",),
        natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
    ),
    Effect(
        "app.bsky.graph.referencelistoptout",
        "reference_list_opt_out",
        "reference_list_opt_out",
        ("stage_reference_list_opt_out",),
        natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
    ),
    Effect("app.bsky.feed.generator", "generator", "feed_generator", ("stage_generator",)),
    Effect("app.bsky.graph.starterpack", "starterpack", "starter_pack", ("stage_starterpack",)),
    Effect("app.bsky.labeler.service", "labeler", "labeler", ("stage_labeler",)),
    Effect(
        "app.bsky.feed.threadgate",
        "threadgate",
        "thread_gate",
        ("stage_threadgate",),
        follows=("flag",),
        always=("unflag",),
    ),
    Effect(
        "app.bsky.feed.postgate", "postgate", "post_gate", ("stage_postgate",), follows=("flag",), always=("unflag",)
    ),
    Effect(
        VERIFICATION,
        "verification",
        "verification",
        ("stage_verification",),
        always=("tell",),
        natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    ),
)
"""The effects in the order in which they run, and so in which their rows are locked, everywhere: those that are judged
after all others."""


WRITES: dict[tuple[str, str], str] = {
    ("repo", "last_seen"): "actor_sync",
    ("repo", "actors"): "actor",
    ("account", "actors"): "actor",
    ("post", "feed"): "feed_item",
    ("post", "op_thread"): "op_thread_reply",
    ("post", "add_quotes"): "quote",
    ("repost", "feed"): "feed_item",
    ("counters", "posts"): "post_agg",
    ("counters", "profiles"): "profile_agg",
}
"""Tables of schema bsky that statements besides a collection's `remove` and `add` write; reports count their rows."""


class CursorMoved(Exception):
    """The cursor was not where the batch began: somebody else consumes this stream. Nothing was written."""


@dataclass(frozen=True)
class CursorMove:
    """The stream's progress that commits together with a batch: `seq` before it (None: no cursor yet) and after it."""

    relay: str
    shard: str
    from_seq: int | None
    to_seq: int


@dataclass(frozen=True)
class LetterLimits:
    """Dead letters of a kind stored in a minute, and bytes of them in a day; what exceeds either is only counted."""

    per_minute: int
    bytes_per_day: int


LETTER_LIMITS = LetterLimits(1_000, 50_000_000)


@dataclass(frozen=True)
class HeirRecord:
    """A stored record that takes part again in who holds its natural key."""

    uri: str
    cid: str
    did: str
    rev: str
    json: str
    indexed_at: str


@dataclass
class Report:
    """What a batch's row in `pipeline.batch` says; `apply` adds what it finds out."""

    source: str
    shard: str = "0/1"
    first_seq: int | None = None
    last_seq: int | None = None
    frames: int = 0
    events: int = 0
    ops: dict[str, dict[str, int]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    rejected_by_kind: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    skipped: int = 0
    doubtful: int = 0
    bytes: int = 0
    relay_time: str | None = None
    received_at: float | None = None
    decode_ms: float = 0.0
    apply_ms: float = 0.0

    @property
    def rejected(self) -> int:
        return sum(self.rejected_by_kind.values())

    def add_written(self, table: str, rows: int) -> None:
        """Counts rows of a table of schema bsky that the batch inserted, updated or deleted."""
        if rows > 0:
            self.written[table] = self.written.get(table, 0) + rows


class Batch(Protocol):
    """What `apply` needs to know of a batch (made by indexing/batch.py)."""

    @property
    def rows(self) -> Mapping[str, Sequence[Sequence[Value]]]:
        """Rows by staging table; tables without rows may be absent."""
        ...

    @property
    def texts(self) -> Mapping[str, bytes]:
        """Rows that are encoded for COPY already."""
        ...

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Columns of the collections' staging tables."""
        ...

    @property
    def seen(self) -> Set[str]:
        """The collections that the batch has events of."""
        ...

    @property
    def report(self) -> Report: ...

    def links_of(self, dids: Set[str]) -> Sequence[Sequence[Value]]:
        """The commits of these repositories, for `stage_link`."""
        ...

    def stage_again(self, collection: str, heirs: Sequence[HeirRecord]) -> Mapping[str, Sequence[Sequence[Value]]]:
        """The staging rows of records that are stored already."""
        ...


def prepare(connection: Connection) -> None:
    """Makes the staging tables on a connection; once is enough, and again does no harm."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.stage_repo')")
        if cursor.fetchone() == (None,):
            files = [effect.file for effect in EFFECTS] + ["version", "thread", "post_notification", "told_pair"]
            statements = [sections("apply/staging.sql")[""]]
            statements += [sections(f"apply/{file}.sql")["stage"] for file in files]
            make_tables(cursor, "\n".join(statements))
    connection.commit()


def apply(
    connection: Connection,
    batch: Batch,
    *,
    move: CursorMove | None = None,
    letters: LetterLimits = LETTER_LIMITS,
    dry_run: bool = False,
) -> Report:
    """Writes a batch and its cursor in one transaction and commits it; on any error nothing of it is written
    (with `dry_run` nothing is written at all).

    Returns the batch's report, completed. Raises `CursorMoved`, or psycopg2's errors: SerializationFailure,
    DeadlockDetected and a lost connection are worth a retry; DataError, IntegrityError and ProgramLimitExceeded
    mean that PostgreSQL refuses some row of the batch.
    """
    started = time.monotonic()
    try:
        with preparing_cursor(connection, batch.report.events) as cursor:
            _apply(cursor, batch, letters)
            batch.report.apply_ms = (time.monotonic() - started) * 1000
            _note(cursor, batch.report)
            if move is not None:
                _move_cursor(cursor, move)
        if dry_run:
            connection.rollback()
        else:
            connection.commit()
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    return batch.report


def _apply(cursor: Cursor, batch: Batch, letters: LetterLimits) -> None:
    # The planner knows of the staging tables only their size, and would rather read a whole table than follow its
    # index for what it takes for many rows. A batch is never that large. And it thinks that a record has few past
    # states, reads them all and sorts them, where the index has the newest first.
    cursor.execute(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_bitmapscan = off"
    )
    rows = batch.rows
    for table, columns in {**SHARED_STAGES, **batch.columns}.items():
        if (text := batch.texts.get(table)) is not None:
            copy_encoded(cursor, table, columns, text)
        else:
            copy_rows(cursor, table, columns, rows.get(table, ()))

    report = batch.report
    gaps = bool(rows.get("stage_gap"))
    late = 0
    if rows.get("stage_repo"):
        repo = sections("apply/repo.sql")
        cursor.execute(repo["lock"])
        if count(cursor, repo["make"]):
            cursor.execute(repo["lock_others"])
        if late := count(cursor, repo["count_late"]):
            cursor.execute(sections("apply/late.sql")["mark"])
        cursor.execute(repo["gaps"])
        gaps = gaps or cursor.rowcount > 0
        run(cursor, report, "repo", "advance", "last_seen", "actors")
    if rows.get("stage_account"):
        run(cursor, report, "account", "apply", "actors")

    touched = _write_records(cursor, batch)
    versions = _keep_versions(cursor, batch, touched)
    if any("stale" in changes for changes in touched.values()):
        _drop_stale(cursor, batch)
    for effect in EFFECTS:
        if not effect.is_judged:
            run_effect(cursor, effect, batch, touched.get(effect.collection, frozenset()))
    _meet_others(cursor, batch)
    for effect in EFFECTS:
        if effect.is_judged:
            run_effect(cursor, effect, batch, touched.get(effect.collection, frozenset()))
    if "app.bsky.feed.post" in batch.seen:
        cursor.execute(sections("apply/post.sql")["forget"])
    judged = _judge(cursor, batch, versions)
    run(cursor, report, "counters", "posts", "profiles")
    # A record that comes late may take the place of another though the batch itself changes none.
    moved = bool(touched or late) or count(cursor, "SELECT count(*) FROM succession") > 0
    retold = False
    if touched:
        run(cursor, report, "notification", "told_already")
    if batch.seen & PAIRS and (moved or rows.get("stage_superseded")):
        retold = count(cursor, sections("apply/told_pair.sql")["near"]) > 0
        if retold:
            run(cursor, report, "told_pair", "records", "further", "wanted", "instead", "pass_on")
    if moved:
        run(cursor, report, "notification", "renew", "withdraw", "remember")
    if retold:
        run(cursor, report, "told_pair", "remember")
    run(cursor, report, "notification", "silence")
    if judged:
        run(cursor, report, "notification", "withdraw_superfluous")
    report.add_written("notification", count(cursor, sections("apply/notification.sql")["insert"]))

    if rows.get("stage_dead_letter"):
        limits = {"per_minute": letters.per_minute, "bytes_per_day": letters.bytes_per_day}
        cursor.execute(sections("apply/dead_letter.sql")["insert"], limits)
    if gaps:
        _note_gaps(cursor)
    if late:
        _close_gaps(cursor, batch)
    if rows.get("stage_ignored"):
        run(cursor, report, "bookkeeping", "ignored")


def _note_gaps(cursor: Cursor) -> None:
    """Writes down what is missing. Refused commits first: they may explain why a chain is broken."""
    gap = sections("apply/gap.sql")
    for name in ("begin", "known"):
        cursor.execute(gap[name])
    cursor.execute(gap["note"], {"chains": False})
    cursor.execute(gap["explained"])
    cursor.execute(gap["note"], {"chains": True})
    cursor.execute(gap["again"])


def _close_gaps(cursor: Cursor, batch: Batch) -> None:
    """Closes what commits that arrived late prove to be complete."""
    gap = sections("apply/gap.sql")
    cursor.execute(gap["late"])
    if dids := {did for (did,) in cursor.fetchall()}:
        copy_rows(cursor, "stage_link", LINK_COLUMNS, batch.links_of(dids))
        for name in ("link", "close_chains", "close_commits", "close_records"):
            cursor.execute(gap[name])


def _write_records(cursor: Cursor, batch: Batch) -> dict[str, frozenset[str]]:
    """Applies writes and deletes to bsky.record; the changes other than creations, by collection."""
    record = sections("apply/record.sql")
    version = sections("apply/version.sql")
    if batch.rows.get("stage_write"):
        cursor.execute(version["replaced"])
        cursor.execute(record["write"])
        row = cursor.fetchone()
        assert row is not None
        batch.report.add_written("record", row[0])
    if batch.rows.get("stage_delete"):
        cursor.execute(version["deleted"])
        cursor.execute(record["delete"])
        batch.report.add_written("record", cursor.rowcount)
    if batch.rows.get("stage_delete") or batch.rows.get("stage_superseded"):
        cursor.execute(record["tombstones"])
    cursor.execute(
        "SELECT collection, array_agg(DISTINCT change), count(*) FILTER (WHERE change = 'stale') "
        "FROM touched GROUP BY collection"
    )
    touched = {}
    for collection, changes, stale in cursor.fetchall():
        touched[collection] = frozenset(changes)
        batch.report.stale += stale
    return touched


def _keep_versions(cursor: Cursor, batch: Batch, touched: Mapping[str, frozenset[str]]) -> bool:
    """Remembers the events that have been superseded. Says whether posts may be judged by any of them."""
    version = sections("apply/version.sql")
    if batch.rows.get("stage_superseded") or any("stale" in changes for changes in touched.values()):
        cursor.execute(version["overtaken"])
    if not count(cursor, "SELECT count(*) FROM new_version"):
        return False
    if batch.seen & TIMED:
        _time_versions(cursor, batch)
    cursor.execute(version["keep"])
    cursor.execute(version["op_thread"])
    return count(cursor, version["deciding"]) > 0


def _time_versions(cursor: Cursor, batch: Batch) -> None:
    """Reads the times of duplicates, which no table has, off their records."""
    version = sections("apply/version.sql")
    cursor.execute(version["untimed"])
    untimed: dict[str, list[HeirRecord]] = {}
    for collection, *row in cursor.fetchall():
        untimed.setdefault(collection, []).append(HeirRecord(*row))
    for collection, records in untimed.items():
        ((table, staged),) = batch.stage_again(collection, records).items()
        rows = [dict(zip(batch.columns[table], values, strict=True)) for values in staged]
        sort_ats = [min(str(row["created_at"]), str(row["indexed_at"])) for row in rows]
        times = {"uris": [row["uri"] for row in rows], "revs": [row["rev"] for row in rows], "sort_ats": sort_ats}
        cursor.execute(version["time"], times)


def _meet_others(cursor: Cursor, batch: Batch) -> None:
    """What this batch brings is written; from here on what other writers bring counts too, and one goes at a time."""
    if not batch.seen:
        return
    cursor.execute(sections("apply/thread.sql")["lock"])
    if "app.bsky.feed.repost" in batch.seen:
        cursor.execute(sections("apply/gone.sql")["feed_items"])


def _judge(cursor: Cursor, batch: Batch, versions: bool) -> bool:
    """Judges replies and quotes, those of the batch and those that it concerns, and says whom they notify."""
    rows, report = batch.rows, batch.report
    deciding = ("stage_post", "stage_follow", "stage_listitem", "stage_threadgate", "stage_postgate")
    thread = sections("apply/thread.sql")
    named = 0
    if batch.seen - {"app.bsky.feed.post"}:
        cursor.execute(thread["events_of_others"])
        named = cursor.rowcount
    if not versions and not named and not any(rows.get(table) for table in deciding):
        return False
    run(cursor, report, "thread", "events", "collect_new", *AFFECTED, "collect_affected")
    # These statements join staging tables with one another, of which the planner expects a row where there may be
    # thousands. Look-ups in the index's own tables are LATERAL, and stay what they are.
    cursor.execute("SET LOCAL enable_nestloop = off")
    if count(cursor, "SELECT count(*) FROM judgement"):
        judge_replies(cursor, report)
        run(cursor, report, "thread", "flag", "pend")
    if versions or rows.get("stage_post_record") or rows.get("stage_postgate"):
        run(cursor, report, "thread", "judge_quotes")
    run(cursor, report, "post_notification", "collect", "tell", "subscriptions")
    if cursor.rowcount:
        cursor.execute(thread["facts"])
        run(cursor, report, "post_notification", "subscribers")
    run(cursor, report, "post_notification", "muted_threads")
    cursor.execute("SET LOCAL enable_nestloop = on")
    return True


def judge_replies(cursor: Cursor, report: Report) -> None:
    """Judges the replies in `judgement`: their roots, and what the gates of their threads say as of their revs."""
    thread = sections("apply/thread.sql")
    run(cursor, report, "thread", "judge_roots", "gates")
    if not cursor.rowcount:
        return
    cursor.execute(thread["rules"])
    if not cursor.rowcount:
        return
    cursor.execute(thread["ask_facts"])
    if cursor.rowcount:
        cursor.execute(thread["facts"])
    cursor.execute(thread["judge_gates"])


def _drop_stale(cursor: Cursor, batch: Batch) -> None:
    """Takes the rows of overtaken records out of the staging tables, so that no effect sees them."""
    for effect in EFFECTS:
        for table in effect.stages:
            if batch.rows.get(table):
                uri = batch.columns[table][0]
                cursor.execute(f"DELETE FROM {table} s USING touched t WHERE s.{uri} = t.uri AND t.change = 'stale'")


def run_effect(cursor: Cursor, effect: Effect, batch: Batch, changes: frozenset[str]) -> None:
    """Runs one collection's effect. `changes`: what `touched` holds of the collection."""
    staged = sum(len(batch.rows.get(table, ())) for table in effect.stages)
    changed = bool(changes & {"updated", "recreated", "deleted", "repaired"})
    if effect.collection not in batch.seen:
        return
    statements = sections(f"apply/{effect.file}.sql")
    key = effect.natural_key
    duplicates = duplicates_of(effect) if key else {}
    contested = False
    if changed:
        if key:
            cursor.execute(duplicates["vacate"])
        cursor.execute(statements["remove"])
        batch.report.add_written(effect.table, cursor.rowcount)
        if key:
            cursor.execute(duplicates["removed"])
            cursor.execute(duplicates["leave"])
            cursor.execute(duplicates["heirs"])
            if heirs := [HeirRecord(*row) for row in cursor.fetchall()]:
                again = batch.stage_again(effect.collection, heirs)
                for table, rows in again.items():
                    copy_rows(cursor, table, batch.columns[table], rows)
                staged += len(heirs)
    if staged:
        cursor.execute(statements["add"])
        added = cursor.rowcount
        contested = key is not None and added < count(cursor, f"SELECT count(*) FROM {effect.stages[0]}")
        if contested:
            _settle_duplicates(cursor, statements, duplicates)
        batch.report.add_written(effect.table, added)
    if key and (changed or contested):
        cursor.execute(duplicates["succeed"])
        cursor.execute(duplicates["forget"])
    if staged:
        run(cursor, batch.report, effect.file, *effect.follows)
    run(cursor, batch.report, effect.file, *effect.always)


def _settle_duplicates(cursor: Cursor, statements: Mapping[str, str], duplicates: Mapping[str, str]) -> None:
    """Some staged record's natural key is taken: the first by rev gets it, the others are duplicates."""
    if count(cursor, duplicates["challenge"]):
        cursor.execute(duplicates["vacate"])
        cursor.execute(statements["remove"])
        cursor.execute(duplicates["removed"])
        cursor.execute(statements["add"])
    cursor.execute(duplicates["lose"])


@cache
def duplicates_of(effect: Effect, file: str = "apply/duplicates.sql") -> dict[str, str]:
    """The statements of duplicates.sql (or of another file with its placeholders) for one collection."""
    assert effect.natural_key is not None
    names = {
        "{table}": f'"{effect.table}"',
        "{stage}": effect.stages[0],
        "{key_1}": f'"{effect.natural_key.columns[0]}"',
        "{key_2}": f'"{effect.natural_key.columns[1]}"',
        "{stage_key_1}": effect.natural_key.stage_columns[0],
        "{stage_key_2}": effect.natural_key.stage_columns[1],
        "{collection}": f"'{effect.collection}'",
    }
    return {
        name: named(fill_placeholders(text, names), f"duplicates.{name} of {effect.file}")
        for name, text in sections(file).items()
    }


def fill_placeholders(statement: str, names: Mapping[str, str]) -> str:
    """A statement with its {placeholders}, which stand for our own identifiers, filled in."""
    for placeholder, identifier in names.items():
        statement = statement.replace(placeholder, identifier)
    return statement


def run(cursor: Cursor, report: Report, file: str, *names: str) -> None:
    """Runs statements of a file; the rows they write are added to the report where `WRITES` knows the table."""
    statements = sections(f"apply/{file}.sql")
    for name in names:
        cursor.execute(statements[name])
        if (table := WRITES.get((file, name))) is not None:
            report.add_written(table, cursor.rowcount)


def count(cursor: Cursor, statement: str, parameters: Mapping[str, Any] | None = None) -> int:
    cursor.execute(statement, parameters)
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _note(cursor: Cursor, report: Report) -> None:
    cursor.execute(
        sections("apply/bookkeeping.sql")["report"],
        {
            "source": report.source,
            "shard": report.shard,
            "first_seq": report.first_seq,
            "last_seq": report.last_seq,
            "frames": report.frames,
            "events": report.events,
            "ops": orjson.dumps(report.ops).decode(),
            "written": orjson.dumps(report.written).decode(),
            "rejected": report.rejected,
            "rejected_by_kind": orjson.dumps(report.rejected_by_kind).decode(),
            "ignored": orjson.dumps(report.ignored).decode(),
            "stale": report.stale,
            "skipped": report.skipped,
            "doubtful": report.doubtful,
            "bytes": report.bytes,
            "relay_time": report.relay_time,
            "received_at": report.received_at,
            "decode_ms": report.decode_ms,
            "apply_ms": report.apply_ms,
        },
    )


def _move_cursor(cursor: Cursor, move: CursorMove) -> None:
    statements = sections("apply/bookkeeping.sql")
    place: dict[str, Any] = {"relay": move.relay, "shard": move.shard}
    if move.from_seq is None:
        cursor.execute(statements["open_cursor"], {**place, "seq": move.to_seq})
    else:
        cursor.execute(statements["advance_cursor"], {**place, "from": move.from_seq, "to": move.to_seq})
    if cursor.rowcount != 1:
        raise CursorMoved(f"the cursor of {move.relay} ({move.shard}) is not at {move.from_seq}: another consumer runs")
