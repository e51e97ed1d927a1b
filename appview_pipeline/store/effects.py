"""What a collection declares of its effect on the database, and the order in which effects run.

A collection's module in `indexing/collections/` makes the declaration. This package knows no collection: it gets the
declarations as a value, `Effects`, with each batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

LOCK_ORDER: tuple[str, ...] = (
    "app.bsky.feed.post",
    "app.bsky.feed.like",
    "app.bsky.feed.repost",
    "app.bsky.graph.follow",
    "app.bsky.graph.block",
    "app.bsky.actor.profile",
    "app.bsky.graph.list",
    "app.bsky.graph.listitem",
    "app.bsky.graph.listblock",
    "app.bsky.graph.referencelistoptout",
    "app.bsky.feed.generator",
    "app.bsky.graph.starterpack",
    "app.bsky.labeler.service",
    "app.bsky.feed.threadgate",
    "app.bsky.feed.postgate",
    "app.bsky.graph.verification",
)
"""The collections with tables, in the order in which their effects run and their rows are locked, everywhere. Those
that are evaluated run after all others (store/apply.py)."""


@dataclass(frozen=True)
class Stage:
    """A temporary table that a batch's rows are copied into, and the columns in the order of the rows' values."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class NaturalKey:
    """The columns of which a collection's table holds one record each, there and in its staging table."""

    columns: tuple[str, str]
    stage_columns: tuple[str, str]


@dataclass(frozen=True)
class Step:
    """A statement of a collection's SQL file. `writes`: a table of schema bsky whose written rows reports count."""

    statement: str
    writes: str | None = None


@dataclass(frozen=True)
class History:
    """What `pipeline.version` keeps of a collection's past states, beside their URI and rev.

    `time_column`: the column of the collection's table with the time of its notifications. `body`: all of the record.
    `columns`: columns of `pipeline.version`; the collection's SQL file has the expression of each, a section
    `kept_<column>`.
    """

    time_column: str | None = None
    body: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notifies:
    """How the records of a collection notify. `reasons`: their values of `bsky.notification.reason`.

    `once`: an edited record keeps its notifications, and a duplicate that is promoted inherits them; without, an edit
    notifies again. Such notifications follow from the history of several records (sql/apply/pair_notification.sql). The
    collection's SQL file has the queries `notified_by_state` and `staged_relationship` for it, and the functions
    `pipeline.relationship_of` and `pipeline.states_of_pair` a branch. `of_posts`: they notify authors of posts, whose
    threads these may have muted; the SQL file has the query `rows_of_post` for it. `stays`: the notification stays when
    its record is deleted, and no rerun derives it again.
    """

    reasons: tuple[str, ...]
    once: bool = False
    of_posts: bool = False
    stays: bool = False


@dataclass(frozen=True)
class AccountRows:
    """How an account's newest rows of a table are found by an index: the column with the account, and the order."""

    column: str = "creator"
    order: str = '"sortAt" DESC'


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """What the records of one collection do to the database.

    `name` is that of the collection's module, of its file in `sql/apply/`, and in placeholders of other files. Of the
    file's statements `remove` runs for records that changed or went, `add` for staged rows, then `follows` for the
    rows that were added, and `always` at the end of every effect of a batch with events of the collection.
    `under_lock` run once the batch holds the cross-repository lock, after the evaluated effects.

    `is_evaluated`: its records are evaluated (posts). An evaluation also writes rows of earlier posts. So
    the rows of such a collection are written under the cross-repository lock. Otherwise two writers, one with a row and
    one with the lock, would wait for each other. `decides_on_posts`: posts are
    evaluated by its records. `counters`: tables of counters that its rows move. `account_rows`: None where the table
    has no index by account.

    `expires`: its records are deleted by age where a retention is set (ingest/retention.py).

    `misses`: what its records show of others and is fetched where it is not indexed, as kinds of `pipeline.pending`
    (docs/on-demand.md). The SQL file has the query `misses` for it: (uri, kind, missing) of staged records.
    """

    nsid: str = field(kw_only=False)
    name: str = ""
    table: str = ""
    stages: tuple[Stage, ...] = ()
    natural_key: NaturalKey | None = None
    follows: tuple[Step, ...] = ()
    always: tuple[Step, ...] = ()
    under_lock: tuple[Step, ...] = ()
    is_evaluated: bool = False
    decides_on_posts: bool = False
    history: History = History()
    notifies: Notifies | None = None
    counters: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    expires: bool = False
    account_rows: AccountRows | None = AccountRows()

    def derives(self, table: str) -> bool:
        """Whether rows of a table of schema bsky follow from the collection's records."""
        is_notified = self.notifies is not None and not self.notifies.stays
        return (
            (self.table == table and bool(self.stages))
            or table in self.counters
            or any(step.writes == table for step in self.follows)
            or (table == "notification" and is_notified)
        )


class Effects:
    """The effects of all collections of an index, and the sets that follow from their declarations.

    `in_order`: those with tables, in lock order. Raises ValueError where `order` and the declarations differ.
    """

    def __init__(self, declared: Iterable[Effect], order: tuple[str, ...] = LOCK_ORDER) -> None:
        self.declared = tuple(declared)
        by_nsid = {effect.nsid: effect for effect in self.declared if effect.stages}
        if unordered := sorted(by_nsid.keys() - set(order)):
            raise ValueError(f"LOCK_ORDER in store/effects.py does not name {', '.join(unordered)}")
        if undeclared := sorted(set(order) - by_nsid.keys()):
            raise ValueError(
                f"no module of indexing/collections/ declares {', '.join(undeclared)}, which LOCK_ORDER names"
            )
        self.in_order = tuple(by_nsid[nsid] for nsid in order)
        self.columns = {stage.table: stage.columns for effect in self.in_order for stage in effect.stages}
        """Columns of the collections' staging tables."""
        self.evaluated = frozenset(effect.nsid for effect in self.declared if effect.is_evaluated)
        """Collections of posts."""
        self.timed = frozenset(effect.nsid for effect in self.declared if effect.history.time_column is not None)
        """Collections of which past states keep the time that their notifications have."""
        self.notified_once = frozenset(
            effect.nsid for effect in self.declared if effect.notifies is not None and effect.notifies.once
        )
        self.reasons_that_stay = tuple(
            reason
            for effect in self.declared
            if effect.notifies is not None and effect.notifies.stays
            for reason in effect.notifies.reasons
        )
        self.expiring = frozenset(effect.nsid for effect in self.declared if effect.expires)
        """Collections whose records are deleted by age where a retention is set."""
        self.deciding_stages = tuple(effect.stages[0].table for effect in self.in_order if effect.decides_on_posts)
        """Staging tables of the collections that posts are evaluated by."""
        self.missing_stages = tuple(stage.table for effect in self.in_order if effect.misses for stage in effect.stages)
        """Staging tables of the collections whose records show others."""

    def derive(self, tables: Collection[str]) -> tuple[str, ...]:
        """The collections from whose records the rows of tables follow, in lock order."""
        return tuple(effect.nsid for effect in self.in_order if any(effect.derives(table) for table in tables))
