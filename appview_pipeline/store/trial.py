"""A trial: what the write path's own statements derive from one stored record, in a transaction that is rolled back.

No rule is written down twice. The record is staged as a rerun stages it, and the statements of `sql/apply/` evaluate
it, find whom it notifies and count it, as if it had just come. What they have found in their temporary tables is read,
and then everything is rolled back. Where something differs from the record, its rows are locked for that moment. A
trial waits for nobody longer than `backoff.TRIAL_LOCK_SECONDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.store.apply import plan_for_batches
from appview_pipeline.store.batch import SHARED_STAGES, BatchToApply, StoredRecord
from appview_pipeline.store.effects import Effect, Effects
from appview_pipeline.store.errors import translated
from appview_pipeline.store.evaluation import evaluate_replies
from appview_pipeline.store.explain import MAX_SHOWN
from appview_pipeline.store.placeholders import fill_placeholders, filled, filled_for
from appview_pipeline.store.repair import prepare_repair
from appview_pipeline.store.repairs import Stage
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows
from appview_pipeline.store.statements import count_rows, run, run_for_number


class GateRule(NamedTuple):
    """A rule of a thread gate (`kind` None: it admits nobody), the relationship that it asks for (None: for none), and
    whether that existed as of the reply's rev."""

    kind: str | None
    list: str | None
    relationship: str | None
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class ReplyEvaluation:
    """How a reply was evaluated, as of its own rev.

    `parent_rev`: rev of the parent's state then; None: it did not exist. `invalid`: its root is not valid. `violating`:
    its thread gate turns it away. `gate_uri`, `gate_rev`: the state of that gate; None: there was none, or it does not
    apply to the author of the root.
    """

    root: str
    parent: str
    parent_rev: str | None
    invalid: bool
    violating: bool
    gate_uri: str | None
    gate_rev: str | None
    gate_is_current: bool | None
    rules: list[GateRule] = field(default_factory=list)


class QuoteEvaluation(NamedTuple):
    """Whether a post gate forbids the quote of `subject`."""

    subject: str
    violating: bool


class Wanted(NamedTuple):
    """A notification that follows from the record."""

    did: str
    reason: str
    subject: str | None


class WantedOfPair(NamedTuple):
    """A notification of a pair: the record that has it, and the record that began the run (pair_notification.sql)."""

    did: str
    reason: str
    subject: str | None
    record_uri: str
    opener: str
    is_quiet: bool


class CountedIn(NamedTuple):
    """A counter that counts the record: its table, the post or account, the column."""

    table: str
    key: str
    counter: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What follows from a record. `reply`, `quote`: None where it is none. `wrong_counters`: those posts and accounts
    of `counted_in` whose counters differ from a recount. `differing`: derived tables that are not what it says."""

    reply: ReplyEvaluation | None = None
    quote: QuoteEvaluation | None = None
    wanted: list[Wanted] = field(default_factory=list)
    of_pair: list[WantedOfPair] = field(default_factory=list)
    counted_in: list[CountedIn] = field(default_factory=list)
    wrong_counters: set[str] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)


def try_record(connection: Connection, effects: Effects, record: StoredRecord, stage: Stage) -> Trial:
    """Runs the write path's statements on a stored record, and rolls back. `stage` makes a batch of it.

    Raises the errors of `store.errors`; `Busy` where others hold locks that the statements need.
    """
    with translated():
        prepare_repair(connection, effects)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute(
                    f"SET LOCAL jit = off; SET LOCAL lock_timeout = '{backoff.TRIAL_LOCK_SECONDS}s'; "
                    f"SET LOCAL statement_timeout = '{backoff.TRIAL_SECONDS}s'"
                )
                return _try(cursor, record, stage([record]))
        finally:
            if not connection.closed:
                connection.rollback()


def _try(cursor: Cursor, record: StoredRecord, batch: BatchToApply) -> Trial:
    plan_for_batches(cursor)
    # One record: whatever it is joined with is looked up.
    cursor.execute("SET LOCAL enable_hashjoin = off")
    tables = {"stage_write": SHARED_STAGES["stage_write"], **batch.effects.columns}
    with_rows = [table for table in tables if batch.rows.get(table)]
    for table in with_rows:
        copy_rows(cursor, table, tables[table], batch.rows[table])
    if with_rows:
        cursor.execute(f"ANALYZE {', '.join(with_rows)}")
    known: dict[str, Any] = {"uri": record.uri, "limit": MAX_SHOWN}
    staged = [it for it in batch.effects.in_order if any(batch.rows.get(stage.table) for stage in it.stages)]
    differing = _compare(cursor, batch.effects, staged, known)
    of_pair: list[WantedOfPair] = []
    reply, quote = None, None
    for effect in staged:
        _follow(cursor, batch.effects, effect)
        if effect.is_evaluated:
            reply, quote = _evaluate(cursor, batch.effects, known)
        elif effect.nsid in batch.effects.notified_once:
            of_pair = _of_pair(cursor, batch.effects, known)
    counted_in = [CountedIn(*row) for row in _read(cursor, "moved_counters", known)]
    return Trial(
        reply=reply,
        quote=quote,
        wanted=[Wanted(*row) for row in _read(cursor, "wanted", known)],
        of_pair=of_pair,
        counted_in=counted_in,
        wrong_counters=_wrong_counters(cursor, counted_in),
        differing=differing,
    )


def _read(cursor: Cursor, name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    cursor.execute(sections("report/explain.sql")[name], parameters)
    return cursor.fetchall()


def _compare(cursor: Cursor, effects: Effects, staged: list[Effect], known: dict[str, Any]) -> list[str]:
    """The derived tables that are not what the record says, as a rerun sees it."""
    for effect in staged:
        cursor.execute(filled(effects, f"apply/{effect.name}.sql")["differs"])
        if effect.natural_key is not None:
            for name in ("rightful", "wrongful"):
                cursor.execute(filled_for(effects, effect, "repair/duplicates.sql")[name], {"table": effect.table})
    return [table for (table,) in _read(cursor, "differing", known)]


def _follow(cursor: Cursor, effects: Effects, effect: Effect) -> None:
    """Counts the record, and finds whom it notifies, where its row is the one that counts."""
    names = {"{stage}": effect.stages[0].table, "{table}": f'"{effect.table}"'}
    cursor.execute(fill_placeholders(filled(effects, "repair/notification.sql")["live"], names))
    statements = filled(effects, f"apply/{effect.name}.sql")
    for step in (*effect.follows, *effect.always):
        text = statements[step.statement]
        notifies = "INTO new_notification" in text and effect.nsid not in effects.notified_once
        if step.writes is None and (notifies or "INTO delta_" in text):
            cursor.execute(text)


def _of_pair(cursor: Cursor, effects: Effects, known: dict[str, Any]) -> list[WantedOfPair]:
    """The notifications of a like, repost or follow and of all that say the same, by their whole history."""
    cursor.execute(sections("report/explain.sql")["assume_promotion"])
    pairs = filled(effects, "apply/pair_notification.sql")
    if run_for_number(cursor, pairs["find_keys"]):
        run(cursor, pairs, "find_records", "find_further_keys", "derive")
    return [WantedOfPair(*row) for row in _read(cursor, "wanted_of_pairs", known)]


def _evaluate(
    cursor: Cursor, effects: Effects, known: dict[str, Any]
) -> tuple[ReplyEvaluation | None, QuoteEvaluation | None]:
    """Evaluates a post as a reply and as a quote, and finds whom it notifies."""
    evaluation = filled(effects, "apply/evaluation.sql")
    cursor.execute(evaluation["collect_new"])
    if count_rows(cursor, "evaluation"):
        evaluate_replies(cursor, effects)
        cursor.execute(evaluation["flag"])
    cursor.execute(filled(effects, "apply/quote_evaluation.sql")["evaluate"])
    run(cursor, filled(effects, "apply/post_notification.sql"), "collect", "notify")
    quote = next((QuoteEvaluation(*row) for row in _read(cursor, "evaluated_quote", known)), None)
    for root, parent, parent_rev, invalid, violating, gate_uri, gate_rev, is_current in _read(
        cursor, "evaluated_reply", known
    ):
        return ReplyEvaluation(
            root=root,
            parent=parent,
            parent_rev=parent_rev,
            invalid=invalid,
            violating=violating,
            gate_uri=gate_uri,
            gate_rev=gate_rev,
            gate_is_current=is_current,
            rules=[GateRule(*row) for row in _read(cursor, "rules", known)],
        ), quote
    return None, quote


def _wrong_counters(cursor: Cursor, counted_in: list[CountedIn]) -> set[str]:
    """The posts and accounts whose counters are not what a recount says."""
    found: set[str] = set()
    recount = sections("repair/counters.sql")
    for table, prefix in (("post_agg", "posts"), ("profile_agg", "profiles")):
        if keys := sorted({it.key for it in counted_in if it.table == table}):
            cursor.execute(sections("report/explain.sql")["keys_to_recount"], {"keys": keys})
            cursor.execute(recount[f"{prefix}_that_differ"])
            cursor.execute("SELECT key FROM recount")
            found.update(key for (key,) in cursor.fetchall())
            cursor.execute(recount["clear"])
    return found
