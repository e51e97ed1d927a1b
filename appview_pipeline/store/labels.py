"""Labels of labelers: label events, and `bsky.label`, which follows from them (sql/apply/label.sql).

Everything that writes label events calls `apply_labels`: the streams of labelers, the label service, retries of dead
letters. The result does not depend on the order, the batches or the repetition in which label events arrive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.batch import DEAD_LETTER_LIMITS, SHARED_STAGES, DeadLetterLimits
from appview_pipeline.store.exclusion import hold_exclusions
from appview_pipeline.store.prepared import preparing_cursor
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import Value, copy_encoded, copy_rows, copy_text, make_tables
from appview_pipeline.store.statements import run

CHANNEL = "appview_labels"
"""Channel that is notified of what changed; docs/labels.md has the payload's form."""
MAX_PAYLOAD = 7_900
"""Bytes of a payload; PostgreSQL takes fewer than 8,000."""
REBUILT_AT_ONCE = 5_000
"""Label events, or rows, that a rebuild compares in a transaction."""
MAX_EVENTS_REMOVED_TOGETHER = 10
"""Label events that a removal deletes in a transaction, for each subject and value that it is to delete there."""

_FILE = "apply/label.sql"
_LETTER_DID = SHARED_STAGES["stage_dead_letter"].index("did")


class LabelRow(NamedTuple):
    """A label, or its negation (`neg`), as a labeler made it: a row of `pipeline.label_event`.

    `cid`: '' for any version. `cts_micros` and `exp_micros`: the moments of `cts` and `exp` in microseconds since 1970.
    `seq`: of the frame that it came in; None: it was made here. `signed`: the bytes under `sig` where they are not the
    canonical ones.
    """

    src: str
    uri: str
    cid: str
    val: str
    neg: bool
    cts: str
    cts_micros: int
    exp: str | None
    exp_micros: int | None
    seq: int | None
    sig: bytes | None
    signed: bytes | None


_STAGED = ("number", *LabelRow._fields)


@dataclass(frozen=True)
class LabelerProgress:
    """What a batch has of one labeler's stream. `before`, `after`: the cursor before and after the batch.

    `frames`, `labels` (valid ones) and `rejected_by_kind` are counts. `newest_cts_micros`: of its labels; None: none.
    `caught_up`: with this batch everything that it had sent is applied.
    """

    did: str
    endpoint: str
    before: int
    after: int
    frames: int = 0
    labels: int = 0
    rejected_by_kind: Mapping[str, int] = field(default_factory=dict)
    newest_cts_micros: int | None = None
    caught_up: bool = False


@dataclass(frozen=True)
class LabelBatch:
    """What one transaction applies.

    `dead_letters`: rows of `stage_dead_letter` (`indexing.shared_rows.dead_letter_rows`).
    """

    rows: Sequence[LabelRow]
    progress: Sequence[LabelerProgress] = ()
    dead_letters: Sequence[Sequence[Value]] = ()


@dataclass
class LabelReport:
    """What became of a batch.

    `events`: label events in it. Of these were `added` new ones, `repeated` those that had been applied before or came
    twice, `withheld` those of labelers that have opted out. `changed`: those that changed what is in effect, which are
    broadcast. `moved`: labelers whose cursor was not where the batch began, or of which something was withheld; it is
    left where it is, but their other label events are applied. `first_id` and `last_id`: of the events that took
    effect; None: none did. `apply_ms`: milliseconds of the transaction, without its commit.
    """

    events: int = 0
    added: int = 0
    changed: int = 0
    repeated: int = 0
    withheld: int = 0
    moved: frozenset[str] = frozenset()
    first_id: int | None = None
    last_id: int | None = None
    apply_ms: float = 0.0

    @property
    def stale(self) -> int:
        """Those that had been applied before, as the pipeline asks for it."""
        return self.repeated


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did to the rows of `bsky.label` of a labeler: `rows` that it should have, `added` ones that were
    missing, `removed` ones without any label event, `corrected` ones that were wrong."""

    rows: int
    added: int
    removed: int
    corrected: int


def apply_labels(
    connection: Connection, batch: LabelBatch, *, limits: DeadLetterLimits = DEAD_LETTER_LIMITS
) -> LabelReport:
    """Writes a batch in the caller's transaction: label events, what follows in `bsky.label`, counts and cursors of
    labelers, dead letters, and the NOTIFY that is sent with the commit.

    From here to the commit it holds the label lock, so that ids of label events rise in the order of commits. Raises
    psycopg2's errors only.
    """
    started = time.monotonic()
    statements = sections(_FILE)
    with preparing_cursor(connection, len(batch.rows)) as cursor:
        _begin(cursor)
        # What this finds holds until the commit: whoever excludes a labeler waits, or removes its labels afterwards.
        excluded = _excluded(cursor, batch)
        rows, repeated, withheld = _distinct(batch.rows, excluded)
        report = LabelReport(events=len(batch.rows), withheld=sum(withheld.values()))
        sources: dict[str, _Source] = {}
        if rows:
            copy_encoded(cursor, "stage_label", _STAGED, _encoded(rows))
            run(cursor, statements, "events", "derive", "effects")
            negations = _settle_effects(cursor)
            cursor.execute(statements["sources"])
            sources = {src: _Source(*counts) for src, *counts in cursor.fetchall()}
            if negations:
                cursor.execute(statements["survivors_again"])
            _notify(cursor, report)
        staged = Counter(row.src for row in rows)
        for src in staged:
            source = sources.setdefault(src, _Source())
            source.repeated = staged[src] + repeated[src] - source.added
        report.added = sum(source.added for source in sources.values())
        report.changed = sum(source.changed for source in sources.values())
        report.repeated = sum(source.repeated for source in sources.values())
        letters = [row for row in batch.dead_letters if row[_LETTER_DID] not in excluded]
        if letters:
            copy_rows(cursor, "stage_dead_letter", SHARED_STAGES["stage_dead_letter"], letters)
            cursor.execute(
                sections("apply/dead_letter.sql")["insert"],
                {"per_minute": limits.per_minute, "bytes_per_day": limits.bytes_per_day},
            )
        report.moved = _count(cursor, sources, batch.progress, excluded)
    report.apply_ms = (time.monotonic() - started) * 1000
    return report


def lock_labels(connection: Connection) -> None:
    """Takes the label lock, until the caller's transaction ends: for callers whose batch depends on what is stored."""
    with connection.cursor() as cursor:
        _begin(cursor)


def rebuild_labels(connection: Connection, src: str, *, progress: Callable[[Rebuilt], object] | None = None) -> Rebuilt:
    """Compares the rows of `bsky.label` of a labeler with its label events and repairs those that differ.

    Works in pages, and commits after each, so it holds up nobody for long; `progress` is called then with what was done
    so far. May run beside everything that applies labels. Notifies of the subjects whose rows it has changed; there are
    no events of that.
    """
    statements = sections(_FILE)
    rows = added = removed = corrected = 0

    def report() -> None:
        if progress is not None:
            progress(Rebuilt(rows=rows, added=added, removed=removed, corrected=corrected))

    after: int | None = 0
    while after is not None:
        with connection.cursor() as cursor:
            _begin(cursor)
            parameters = {"src": src, "after": after, "limit": REBUILT_AT_ONCE}
            cursor.execute(statements["page_of_events"], parameters)
            ((after,),) = cursor.fetchall()
            cursor.execute(statements["derive"])
            cursor.execute(statements["repaired"])
            ((more, others, subjects),) = cursor.fetchall()
            _notify_of_repair(cursor, more + others, subjects)
            cursor.execute(statements["sources"])
            _count(cursor, {source: _Source(*counts) for source, *counts in cursor.fetchall()}, ())
        connection.commit()
        added += more
        corrected += others
        report()
    key: tuple[str, str, str] | None = ("", "", "")
    while key is not None:
        with connection.cursor() as cursor:
            _begin(cursor)
            uri, cid, val = key
            cursor.execute(
                statements["page_of_rows"], {"src": src, "uri": uri, "cid": cid, "val": val, "limit": REBUILT_AT_ONCE}
            )
            key = None
            for *key_of_row, looked_at, gone, gone_in_effect, subjects in cursor.fetchall():
                key = (key_of_row[0], key_of_row[1], key_of_row[2])
                rows += looked_at - gone
                removed += gone
                _notify_of_repair(cursor, gone, subjects)
                if gone_in_effect:
                    _count(cursor, {src: _Source(more=-gone_in_effect)}, ())
        connection.commit()
        report()
    with connection.cursor() as cursor:
        cursor.execute(statements["drift"], {"src": src})
        ((drift,),) = cursor.fetchall()
        if drift:
            cursor.execute(statements["correct_count"], {"src": src, "drift": drift})
    connection.commit()
    return Rebuilt(rows=rows, added=added, removed=removed, corrected=corrected)


def announce_expired(connection: Connection) -> int:
    """Notifies of the labels that have expired since the last call, each once, in the caller's transaction.

    Returns how many these are. Of several callers at once one announces, the others wait for its commit and find
    nothing left.
    """
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["expired_to"])
        ((since, until),) = cursor.fetchall()
        cursor.execute(statements["expired"], {"from": since, "to": until})
        ((expired, subjects, subjects_are_all),) = cursor.fetchall()
        cursor.execute(statements["move_expired_to"], {"to": until})
        if expired:
            _send(cursor, {"count": expired}, "expired", subjects, subjects_are_all=subjects_are_all)
    return int(expired)


def remove_labels(connection: Connection, src: str, limit: int) -> int:
    """Removes what a labeler that is removed has said of up to `limit` subjects and values, with the rows of
    `bsky.label` that follow, in the caller's transaction. Returns how many rows: 0 once nothing of it is left.

    Takes the label lock: what a batch brings that found the labeler not excluded yet is removed with the rest. Notifies
    of the subjects whose labels end; there are no events of that.
    """
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        _begin(cursor)
        for statement in ("remove_events", "remove_rows"):
            cursor.execute(
                statements[statement], {"src": src, "limit": limit, "most": limit * MAX_EVENTS_REMOVED_TOGETHER}
            )
            ((removed, in_effect, subjects),) = cursor.fetchall()
            if in_effect:
                cursor.execute(statements["correct_count"], {"src": src, "drift": -in_effect})
                _notify_of_repair(cursor, in_effect, subjects)
            if removed:
                return int(removed)
    return 0


@dataclass
class _Source:
    """What has become of a source's events in a batch; `more`: rows in effect, fewer if negative."""

    added: int = 0
    changed: int = 0
    more: int = 0
    repeated: int = 0


def _begin(cursor: Cursor) -> None:
    """Makes the staging tables where the session has none, and takes the locks. (Exclusions first: who holds the label
    lock waits for nobody who may wait for it.)"""
    cursor.execute("SELECT to_regclass('pg_temp.stage_label'), to_regclass('pg_temp.stage_dead_letter')")
    ((labels, letters),) = cursor.fetchall()
    if labels is None:
        make_tables(cursor, sections(_FILE)["stage"])
    if letters is None:
        make_tables(cursor, sections("apply/dead_letter.sql")["stage"])
    # As for other batches (store/apply.py): the planner knows nothing of the staging tables.
    cursor.execute(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_bitmapscan = off"
    )
    hold_exclusions(cursor)
    cursor.execute(sections(_FILE)["lock"])


def _excluded(cursor: Cursor, batch: LabelBatch) -> frozenset[str]:
    """Those of the batch's labelers that are excluded."""
    dids = {row.src for row in batch.rows} | {row[_LETTER_DID] for row in batch.dead_letters}
    named = [did for did in dids if isinstance(did, str) and "\0" not in did]
    cursor.execute(sections("apply/excluded.sql")["find"], {"dids": named})
    return frozenset(did for (did,) in cursor.fetchall())


def _distinct(rows: Sequence[LabelRow], excluded: frozenset[str]) -> tuple[list[LabelRow], Counter[str], Counter[str]]:
    """The label events of a batch, each once: with its highest seq and its last signature, where it came first. Also
    how many came again, and how many are of excluded labelers, by labeler."""
    found: dict[tuple[object, ...], LabelRow] = {}
    repeated: Counter[str] = Counter()
    withheld: Counter[str] = Counter()
    for row in rows:
        if excluded and row.src in excluded:
            withheld[row.src] += 1
            continue
        key = (row.src, row.uri, row.val, row.cid, row.cts_micros, row.neg, row.exp_micros)
        before = found.setdefault(key, row)
        if before is not row:
            repeated[row.src] += 1
            said = before if row.sig is None else row  # a signature belongs to the spelling of times under it
            found[key] = said._replace(seq=max((seq for seq in (before.seq, row.seq) if seq is not None), default=None))
    return list(found.values()), repeated, withheld


def _encoded(rows: Sequence[LabelRow]) -> bytes:
    return copy_text([(number, *row) for number, row in enumerate(rows)])


def _settle_effects(cursor: Cursor) -> int:
    """Marks events without effect, and gives new ids to known ones that take effect now. Returns how many negations
    take effect."""
    statements = sections(_FILE)
    cursor.execute(statements["without_effect"])
    ((known, negations),) = cursor.fetchall()
    if known:
        cursor.execute(statements["known_again"])
    return int(negations)


def _notify(cursor: Cursor, report: LabelReport) -> None:
    """Notifies of the events that took effect, and notes their ids."""
    cursor.execute(sections(_FILE)["announced"])
    ((report.first_id, report.last_id, count, subjects, subjects_are_all),) = cursor.fetchall()
    if count:
        head = {"first": report.first_id, "last": report.last_id, "count": count}
        _send(cursor, head, "subjects", subjects, subjects_are_all=subjects_are_all)


def _notify_of_repair(cursor: Cursor, rows: int, subjects: Sequence[str]) -> None:
    if rows:
        _send(cursor, {"first": None, "last": None, "count": rows}, "subjects", subjects, subjects_are_all=False)


def _send(
    cursor: Cursor, head: Mapping[str, int | None], name: str, subjects: Sequence[str], *, subjects_are_all: bool
) -> None:
    """Sends a payload with as many of the subjects as it has room for; `more`: there are others."""
    room = MAX_PAYLOAD - len(orjson.dumps({**head, name: [], "more": False}))
    named: list[str] = []
    for subject in subjects:
        room -= len(orjson.dumps(subject)) + 1
        if room < 0:
            break
        named.append(subject)
    more = not subjects_are_all or len(named) < len(subjects)
    payload = orjson.dumps({**head, name: named, "more": more}).decode()
    cursor.execute(sections(_FILE)["notify"], {"channel": CHANNEL, "payload": payload})


def _count(
    cursor: Cursor,
    sources: Mapping[str, _Source],
    progress: Sequence[LabelerProgress],
    withheld: frozenset[str] = frozenset(),
) -> frozenset[str]:
    """Counts in `pipeline.labeler`, and moves the cursors that are where the batch began. Returns the labelers whose
    cursor is elsewhere.

    `withheld`: labelers of which the batch has left something out, because they are excluded. Their cursors stay, too:
    whoever allows one again sets it to 0, where it may have been before, and what was left out has to come again.
    """
    statements = sections(_FILE)
    dids = sorted({*sources, *(it.did for it in progress)})
    if not dids:
        return frozenset()
    cursor.execute(statements["lock_labelers"], {"dids": dids})
    places = {did: (endpoint, at) for did, endpoint, at in cursor.fetchall()}
    if unknown := sorted(sources.keys() - places.keys()):
        cursor.execute(statements["make_labelers"], {"dids": unknown})
    if sources:
        cursor.execute(
            statements["count"],
            {
                "dids": list(sources),
                "changed": [it.changed for it in sources.values()],
                "repeated": [it.repeated for it in sources.values()],
                "more": [it.more for it in sources.values()],
            },
        )
    moving = [it for it in progress if places.get(it.did) == (it.endpoint, it.before) and it.did not in withheld]
    if moving:
        cursor.execute(
            statements["advance"],
            {
                "dids": [it.did for it in moving],
                "after": [it.after for it in moving],
                "caught_up": [it.caught_up for it in moving],
                "newest_cts": [it.newest_cts_micros for it in moving],
                "frames": [it.frames for it in moving],
                "labels": [it.labels for it in moving],
                "rejected": [sum(it.rejected_by_kind.values()) for it in moving],
                "by_kind": [orjson.dumps(dict(it.rejected_by_kind)).decode() for it in moving],
            },
        )
    return frozenset(it.did for it in progress) - {it.did for it in moving}
