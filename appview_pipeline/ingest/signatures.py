"""Signatures that could not be checked, or did not fit, when their commits came: decided once a key is there.

The fetch process calls `settle_signatures` every few seconds. Two kinds wait:

- Commits that were applied while the account's key was not known (`pipeline.unchecked_commit`). With a good signature
  the commit, and the tree that it names, are the account's. With a bad one they become a dead letter and a gap, which
  only an export closes that reaches the commit: the repository is fetched.
- Dead letters of commits that did not fit the key that was known (kind `commit-signature`). Their accounts are
  resolved anew. A commit that fits the fresh key goes through the write path, which closes its gap. One that does not
  stays a dead letter; the repository is fetched in any case, and whatever rev it has then closes the gap.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from appview_pipeline.indexing.changes import Change, DeadLetter
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.verification import NOT_SIGNED, SIGNATURE, is_signed
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.commit import InvalidCommit
from appview_pipeline.protocol.signing import InvalidKey, VerifyingKey, parse_did_key
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.dead_letters import mark_covered, mark_failed
from appview_pipeline.store.signatures import (
    Unchecked,
    break_chains,
    disown,
    due_unchecked,
    finish_unchecked,
    unsettled_letters,
)


@dataclass(frozen=True)
class Settled:
    """What one call decided: signatures `checked`, of which so many were `good` or `bad`; `retried`: those among the
    good ones that were dead letters and are applied now. `has_more`: as many as were allowed were looked at: others
    may be due."""

    checked: int = 0
    good: int = 0
    bad: int = 0
    retried: int = 0
    has_more: bool = field(default=False, compare=False)


def settle_signatures(settings: Settings, database: Database, writer: Writer, *, limit: int = 500) -> Settled:
    """Decides about at most `limit` commits and as many dead letters, whose accounts' keys have come; two queries where
    there are none. `writer` writes the dead letters of bad commits.

    Interrupted or called twice at once, it does the same again. Raises what `Writer.write` and `Database.connect` do.
    """
    commits = _settle_commits(database, writer, limit)
    letters = _settle_letters(settings, database, limit)
    return Settled(
        checked=commits.checked + letters.checked,
        good=commits.good + letters.good,
        bad=commits.bad + letters.bad,
        retried=letters.retried,
        has_more=commits.has_more or letters.has_more,
    )


def _settle_commits(database: Database, writer: Writer, limit: int) -> Settled:
    with database.connect("reader") as connection:
        due = due_unchecked(connection, limit)
    if not due:
        return Settled()
    decided = [it for it in due if it.is_exported or it.key is not None]
    checked = [it for it in decided if not it.is_exported]
    bad = [it for it in checked if not _fits(it)]
    if bad:
        writer.write([Change(size=0, dead_letters=[_letter_of(it)]) for it in bad], time.time())
    with database.connect("writer") as connection:
        if bad:
            break_chains(connection, sorted({it.did for it in bad}))
        finish_unchecked(connection, decided, [it for it in due if it not in decided])
    return Settled(checked=len(checked), good=len(checked) - len(bad), bad=len(bad), has_more=len(due) == limit)


def _fits(commit: Unchecked) -> bool:
    assert commit.key is not None
    try:
        return is_signed(VerifyingKey(parse_did_key(commit.key)), commit.block)
    except (InvalidKey, InvalidCommit):
        return False


def _letter_of(commit: Unchecked) -> DeadLetter:
    """Its records were applied when it came, so there is nothing to try again: its repository is fetched."""
    return DeadLetter(
        kind=SIGNATURE,
        reason=f"{NOT_SIGNED}; it was applied before the key was known",
        seq=commit.seq,
        did=commit.did,
        path=None,
        bytes=commit.block,
        form="other",
        rev=commit.rev,
    )


def _settle_letters(settings: Settings, database: Database, limit: int) -> Settled:
    with database.connect("reader") as connection:
        due = unsettled_letters(connection, limit)
    if not due:
        return Settled()
    covered = [it.id for it in due if it.is_exported]
    keyless = [it.id for it in due if not it.is_exported and it.key is None]
    with database.connect("writer") as connection:
        mark_covered(connection, covered)
        for letter in keyless:
            mark_failed(connection, letter, SIGNATURE, f"{NOT_SIGNED}, and it has none any more")
    to_retry = [it.id for it in due if not it.is_exported and it.key is not None]
    resolved = retry_dead_letters(settings, database, ids=to_retry).resolved if to_retry else 0
    if resolved < len(keyless) + len(to_retry):
        with database.connect("writer") as connection:
            disown(connection, [*keyless, *to_retry])
    return Settled(
        checked=len(keyless) + len(to_retry),
        good=resolved,
        bad=len(keyless) + len(to_retry) - resolved,
        retried=resolved,
        has_more=len(due) == limit,
    )
