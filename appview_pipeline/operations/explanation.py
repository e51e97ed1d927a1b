"""What `explain` finds out of a record or an account (`operations/explain.py` reads it, `explain_words.py` says it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from appview_pipeline.identity.show import ShownIdentity
from appview_pipeline.operations.subjects import Subject
from appview_pipeline.store.explain import AccountRows, NotIndexed, RecordRows
from appview_pipeline.store.trial import Trial


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, kw_only=True)
class RecordExplanation:
    """A record, with all that is known of it.

    `trial`: what follows from it; None where it is not indexed, has no derived rows, or `untried` says why that can't
    be said. `parent`: of a reply, its parent as of its rev (rev, root, whether its own root is invalid).
    `post_gate_rev`: of a quote, the state of the quoted post's gate as of its rev. `named`: the accounts that the
    record names, in order; `removed` and `blocks` are of those. `missing`: the records that it names and that are not
    indexed. `counters`: of the posts and accounts that count it, and its own. `not_indexed`: what was met of a
    collection that is not indexed. `is_too_old`: retention keeps no such record, by its record key.
    """

    subject: Subject
    rows: RecordRows
    account: AccountRows
    is_indexed_collection: bool
    not_indexed: NotIndexed | None = None
    is_too_old: bool = False
    trial: Trial | None = None
    untried: str | None = None
    parent: tuple[str, str | None, bool | None] | None = None
    post_gate_rev: str | None = None
    named: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    blocks: list[tuple[str, str]] = field(default_factory=list)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    now: datetime = field(default_factory=_now)

    @property
    def uri(self) -> str:
        """AT URI of the record."""
        return self.subject.uri


@dataclass(frozen=True, kw_only=True)
class AccountExplanation:
    """An account, with all that is known of it. `identity`: None where nothing of its identity is."""

    subject: Subject
    account: AccountRows
    identity: ShownIdentity | None
    counters: dict[str, dict[str, int]]
    now: datetime = field(default_factory=_now)


Explanation = RecordExplanation | AccountExplanation
