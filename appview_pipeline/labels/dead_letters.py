"""Retries of dead letters: those from labelers here, all others in `ingest/dead_letters.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from appview_pipeline.identity.attempt import attempt
from appview_pipeline.identity.cache import IdentityCache
from appview_pipeline.identity.questions import questions
from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.indexing.shared_rows import letter_rows
from appview_pipeline.ingest import dead_letters as of_relays
from appview_pipeline.ingest.dead_letters import (
    EXCLUDED,
    NotRetriable,
    RetrySummary,
    StillDead,
    content_of_letter,
)
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.labels.decoding import rejected_label, row_of
from appview_pipeline.labels.verification import SIGNATURE, verify_one
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.label import InvalidLabel, decode_label
from appview_pipeline.protocol.label_frames import read_labels_frame
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import DeadLetterLimits
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.dead_letters import LABEL, StoredLetter, mark_failed, mark_label_resolved
from appview_pipeline.store.errors import RefusedData
from appview_pipeline.store.exclusion import excluded_of
from appview_pipeline.store.labels import LabelBatch, LabelRow, apply_labels
from appview_pipeline.store.staging import Value

log = logging.getLogger(__name__)


def retry_dead_letters(
    settings: Settings,
    database: Database,
    *,
    ids: Sequence[int] | None = None,
    kind: str | None = None,
    limit: int = 100_000,
    progress: Callable[[RetrySummary], object] = lambda so_far: None,
) -> RetrySummary:
    """Tries dead letters again, as `ingest.dead_letters.retry_dead_letters` does, those from labelers among them.

    Labels are read by the rules of today and verified with their labeler's present key, which is resolved where it is
    not known or does not fit. What passes is applied as of its own time: what is newer stays. Of a frame whose other
    labels pass, those that don't get dead letters of their own. No cursor is moved.
    """
    with questions(settings) as (asked, _):
        identities = IdentityCache(database, settings, lambda wanted: attempt(wanted, asked))
        return of_relays.retry_dead_letters(
            settings,
            database,
            ids=ids,
            kind=kind,
            limit=limit,
            progress=progress,
            of_labelers=_Retry(settings, database, identities),
        )


@dataclass
class _Read:
    """What a letter amounts to today: labels that are valid, and letters of the others in its frame."""

    letter: StoredLetter
    labeler: str
    rows: list[LabelRow] = field(default_factory=list)
    rejected: list[DeadLetter] = field(default_factory=list)


class _Retry:
    """Tries letters from labelers again, many in one transaction."""

    def __init__(self, settings: Settings, database: Database, identities: IdentityCache) -> None:
        self._settings = settings
        self._database = database
        self._identities = identities
        self._limits = DeadLetterLimits(settings.dead_letters_per_minute, settings.dead_letter_day_bytes)

    def __call__(self, letters: Sequence[StoredLetter], summary: RetrySummary) -> None:
        """Reads them, applies what passes, marks and counts each."""
        with self._database.connect("reader") as connection:
            excluded = excluded_of(connection, {letter.did for letter in letters if letter.did is not None})
        passed: list[_Read] = []
        failed: list[tuple[StoredLetter, StillDead]] = []
        for letter in letters:
            try:
                if letter.did in excluded:
                    raise NotRetriable(EXCLUDED)
                passed.append(self._read(letter))
            except NotRetriable as why:
                summary.add_impossible(letter, str(why))
            except (InvalidLabel, FrameError) as error:
                failed.append((letter, StillDead(error.kind, error.reason)))
        failed += self._apply(passed, summary)
        if failed:
            with self._database.connect("writer") as connection:
                for letter, again in failed:
                    mark_failed(connection, letter.id, again.kind, again.reason)
        for letter, again in failed:
            summary.add(letter, again)

    def _read(self, letter: StoredLetter) -> _Read:
        """Raises `NotRetriable`, and InvalidLabel or FrameError where it is still dead."""
        content = content_of_letter(letter)
        if letter.did is None:
            raise NotRetriable("which labeler sent it was not noted")
        read = _Read(letter, letter.did)
        if letter.form == LABEL:
            read.rows.append(self._verified(decode_label(content), letter.did, letter.seq))
            return read
        frame = read_labels_frame(content)
        seq, values = (letter.seq, []) if frame is None else frame
        for value in values:
            try:
                read.rows.append(self._verified(value, letter.did, seq))
            except InvalidLabel as error:
                read.rejected.append(rejected_label(value, error, letter.did, seq))
        return read

    def _verified(self, value: object, labeler: str, seq: int | None) -> LabelRow:
        try:
            return row_of(verify_one(self._settings, self._identities, value, labeler), seq)
        except InvalidLabel as error:
            # Without the labeler's document nothing can be said of a signature.
            if error.kind == SIGNATURE and (identity := self._identities.get(labeler)).state is None:
                raise NotRetriable(f"its labeler can't be resolved now: {identity.reason}") from None
            raise

    def _apply(self, reads: Sequence[_Read], summary: RetrySummary) -> list[tuple[StoredLetter, StillDead]]:
        """Applies them in one transaction, and those that PostgreSQL refuses by halves. Returns what it refuses."""
        if not reads:
            return []
        try:
            with self._database.connect("writer") as connection:
                withheld = retry_while_busy(connection, partial(self._apply_once, connection, reads))
                connection.commit()
        except RefusedData as refusal:
            if len(reads) == 1:
                log.warning("PostgreSQL refuses dead letter %s: %s", reads[0].letter.id, refusal)
                return [(reads[0].letter, StillDead("postgres", f"PostgreSQL refuses it: {refusal}"[:500]))]
            half = len(reads) // 2
            return self._apply(reads[:half], summary) + self._apply(reads[half:], summary)
        for read in reads:
            if read.labeler in withheld:
                summary.add_impossible(read.letter, EXCLUDED)
            else:
                summary.add(read.letter, None)
        return []

    def _apply_once(self, connection: Connection, reads: Sequence[_Read]) -> frozenset[str]:
        """Returns the labelers of which nothing was applied, because they are excluded by now."""
        letters: list[Sequence[Value]] = []
        for read in reads:
            letters += letter_rows(read.rejected, read.letter.source, self._settings.dead_letter_bytes)
        batch = LabelBatch([row for read in reads for row in read.rows], dead_letters=letters)
        apply_labels(connection, batch, limits=self._limits)
        withheld = excluded_of(connection, {read.labeler for read in reads})
        for read in reads:
            if read.labeler not in withheld:
                mark_label_resolved(connection, read.letter)
        return withheld
