"""Finding the records of a change that PostgreSQL does not take, by trying each of them without writing it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from appview_pipeline.indexing.batch import build
from appview_pipeline.indexing.changes import Change, DeadLetter, RecordDelete
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.exclusion import content_of
from appview_pipeline.ingest.transactions import TookTooLong, Transactions, reason_of
from appview_pipeline.protocol.syntax import is_did
from appview_pipeline.store.errors import RefusedData

log = logging.getLogger(__name__)

SMALLEST_SHARE = 0.1
"""The least of `APPVIEW_STATEMENT_TIMEOUT` that a part of a cancelled batch gets."""
QUICK_SHARE = 0.1
"""PostgreSQL answers quickly when a batch of nothing takes less than this share of `APPVIEW_STATEMENT_TIMEOUT`."""
MAX_SLOW_RECORDS = 10
"""Records of one change that are found to be slow by trying; what follows them is given up with them."""


@dataclass(frozen=True)
class Objection:
    """Why PostgreSQL does not take something, as a dead letter's kind and reason."""

    kind: str
    reason: str


class Trial:
    """Tries changes of one source. Nothing is written."""

    def __init__(self, transactions: Transactions, source: str, dead_letter_bytes: int) -> None:
        self._transactions = transactions
        self._source = source
        self._dead_letter_bytes = dead_letter_bytes

    def without_refused(self, change: Change) -> Change | None:
        """A refused change without the records that PostgreSQL refuses, which are dead letters in it.

        None where PostgreSQL accepts each record by itself: then something else in the change is refused.
        """
        kept, letters = [], []
        for write in change.writes:
            if (objection := self._objection(_alone(change, write))) is None:
                kept.append(write)
            else:
                letters.append(_letter(write, objection))
        return _without(change, kept, letters) if letters else None

    def without_slow(self, change: Change, reason: str) -> Change | None:
        """A change that takes too long without the records that do, which are dead letters in it.

        None where no record by itself takes too long. Looking ends after `MAX_SLOW_RECORDS` of them: the records that
        follow are given up unseen, for `reason`.
        """
        kept: list[RecordWrite] = []
        letters: list[DeadLetter] = []
        for write in change.writes:
            objection: Objection | None = Objection("time-out", reason)
            if len(change.writes) + len(change.deletes) > 1 and len(letters) < MAX_SLOW_RECORDS:
                objection = self._objection(_alone(change, write), SMALLEST_SHARE)
            if objection is None:
                kept.append(write)
            else:
                letters.append(_letter(write, objection))
        if not letters:
            return None
        log.error(
            "%s records of %s exceed the time that a statement may take and are given up as dead letters "
            "(time-out): %s; at %s",
            len(letters),
            named(change),
            ", ".join(str(letter.path) for letter in letters[:3]),
            reason,
        )
        return _without(change, kept, letters)

    def answers_quickly(self) -> bool:
        """Whether PostgreSQL takes a batch of nothing in a small part of the time that the usual batch has."""
        began = time.monotonic()
        if self._objection(Change(size=0)) is not None:
            return False
        return time.monotonic() - began < QUICK_SHARE * self._transactions.statement_seconds

    def _objection(self, change: Change, share: float = 1.0) -> Objection | None:
        """Why PostgreSQL refuses a change or takes too long for it; None when it takes it."""

        def attempt(share: float) -> None:
            batch = build([change], self._source, dead_letter_bytes=self._dead_letter_bytes)
            self._transactions.apply(batch, share, dry_run=True)

        try:
            self._transactions.retry(attempt, share=share, max_cancelled=1, is_single=True)
        except RefusedData as error:
            return Objection("postgres", reason_of(error))
        except TookTooLong as error:
            return Objection("time-out", str(error))
        return None


def halves(changes: Sequence[Change]) -> tuple[Sequence[Change], Sequence[Change]] | None:
    """`changes` in two parts; None where they are one that can't be divided. A single part of an export is divided
    itself: at the end its last record and what it proves are apart, so that giving the record up keeps the proof."""
    if len(changes) > 1:
        half = len(changes) // 2
        return changes[:half], changes[half:]
    (change,) = changes
    rows: list[RecordWrite | RecordDelete] = [*change.writes, *change.deletes]
    if change.export is None or len(rows) < (1 if change.export.is_last else 2):
        return None
    half = max(1, len(rows) // 2)
    first = _part(change, rows[:half], is_last=False)
    second = _part(change, rows[half:], is_last=change.export.is_last)
    # What is not in the rows goes with the second part.
    second = replace(second, dead_letters=change.dead_letters, gaps=change.gaps, size=change.size, ops=change.ops)
    return [replace(first, dead_letters=[], gaps=[], size=0, ops=[])], [second]


def _part(change: Change, rows: Sequence[RecordWrite | RecordDelete], *, is_last: bool) -> Change:
    assert change.export is not None
    writes = [row for row in rows if isinstance(row, RecordWrite)]
    deletes = [row for row in rows if isinstance(row, RecordDelete)]
    return replace(change, export=change.export._replace(is_last=is_last), writes=writes, deletes=deletes)


def given_up(change: Change, objection: Objection) -> Change:
    """A dead letter in place of a whole change."""
    repo = change.repo or change.export
    letter = DeadLetter(
        kind=objection.kind,
        reason=objection.reason,
        seq=change.seq,
        did=repo.did if repo else min(filter(is_did, content_of(change)), default=None),
        path=None,
        bytes=repr(change).encode(),
        form="other",
        rev=repo.rev if repo else None,
        since=change.repo.since if change.repo else None,
    )
    return Change(size=change.size, seq=change.seq, time=change.time, is_event=change.is_event, dead_letters=[letter])


def named(change: Change) -> str:
    """What a person can find a change by."""
    state = change.repo or change.export
    return state.did if state is not None else f"event {change.seq}"


def _alone(change: Change, write: RecordWrite) -> Change:
    export = None if change.export is None else change.export._replace(is_last=False)
    return replace(change, writes=[write], deletes=[], repo=None, export=export)


def _without(change: Change, kept: list[RecordWrite], letters: list[DeadLetter]) -> Change:
    return replace(change, writes=kept, dead_letters=[*change.dead_letters, *letters])


def _letter(write: RecordWrite, objection: Objection) -> DeadLetter:
    return DeadLetter(
        kind=objection.kind,
        reason=objection.reason,
        seq=write.seq,
        did=write.did,
        path=f"{write.collection}/{write.rkey}",
        bytes=write.json.encode(),
        form="json",
        rev=write.rev,
        cid=write.cid,
        action=write.action,
        time=write.indexed_at,
        is_quiet=write.is_quiet,
    )
