"""The writer of labels: batches into transactions, tried again until they are committed.

As for changes (`ingest/writer.py`): a batch is tried again while its failure is a passing one. One that PostgreSQL
refuses, or that takes too long, is halved; at the end there is one label, which becomes a dead letter.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.indexing.shared_rows import letter_rows
from appview_pipeline.ingest.offenders import QUICK_SHARE, SMALLEST_SHARE
from appview_pipeline.ingest.transactions import AtWork, TookTooLong, Transactions, reason_of
from appview_pipeline.labels.label_frame import LabelFrame, Position
from appview_pipeline.labels.stored_label import label_to_send
from appview_pipeline.protocol.label import as_wire, encode_label
from appview_pipeline.settings import Settings
from appview_pipeline.store.batch import DeadLetterLimits
from appview_pipeline.store.database import Database
from appview_pipeline.store.dead_letters import LABEL
from appview_pipeline.store.errors import RefusedData
from appview_pipeline.store.labels import LabelBatch, LabelerProgress, LabelReport, apply_labels
from appview_pipeline.store.postgres import limit_transaction
from appview_pipeline.store.staging import Value

log = logging.getLogger(__name__)


class LabelWriter:
    """Writes frames of labelers' streams, and moves their cursors with them. Not for use by two threads at once.

    Frames whose position is lost are left out: they come again from the stored cursor.
    """

    def __init__(self, database: Database, settings: Settings, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._database = database
        self._role = database.roles["writer"]
        self._limits = DeadLetterLimits(settings.dead_letters_per_minute, settings.dead_letter_day_bytes)
        self._dead_letter_bytes = settings.dead_letter_bytes
        self._batch_labels = settings.batch_events
        self._transactions = Transactions(database, stopped)

    @property
    def retries(self) -> int:
        """How many failures were tried again."""
        return self._transactions.retries

    @property
    def at_work(self) -> AtWork | None:
        """The write under way; may be read by any thread."""
        return self._transactions.at_work

    def build(self, changes: Sequence[LabelFrame]) -> LabelBatch:
        """The batch of these frames, without their cursors, which the writer knows only when it writes."""
        letters: dict[str, list[DeadLetter]] = {}
        for frame in changes:
            if frame.rejected:
                letters.setdefault(frame.position.endpoint, []).extend(frame.rejected)
        rows: list[Sequence[Value]] = []
        for source, rejected in letters.items():
            rows += letter_rows(rejected, source, self._dead_letter_bytes)
        return LabelBatch([row for frame in changes for row in frame.rows], dead_letters=rows)

    def write(
        self,
        changes: Sequence[LabelFrame],
        received_at: float,
        decode_ms: float = 0.0,
        built: LabelBatch | None = None,
    ) -> list[LabelReport]:
        """Writes frames and commits them, at most `APPVIEW_BATCH_EVENTS` labels in a transaction.

        `built`: what `build` made of them. Waits and tries again as long as the database is away or busy, until asked
        to stop (`Stopped`).
        """
        parts = in_parts(changes, self._batch_labels)
        reports = []
        try:
            for part in parts:
                reports += self._write(part, built if len(parts) == 1 else None)
        finally:
            self._transactions.at_work = None
        return reports

    def _write(
        self,
        frames: Sequence[LabelFrame],
        built: LabelBatch | None = None,
        *,
        share: float = 1.0,
        max_cancelled: int = backoff.BATCH_CANCELLATIONS,
    ) -> list[LabelReport]:
        live = [frame for frame in frames if not frame.position.is_lost]  # the part before this one may have lost it
        if len(live) < len(frames):
            frames, built = live, None
        if not frames:
            return []
        self._transactions.at_work = AtWork(time.monotonic(), sum(frame.labels for frame in frames), None)
        try:
            return [self._write_once(frames, built, share=share, max_cancelled=max_cancelled)]
        except RefusedData as refusal:
            if (parts := halves(frames)) is None:
                return [self._write_once([_given_up(frames[0], "postgres", reason_of(refusal))])]
            log.warning("PostgreSQL refuses one of %s labels; looking for it", f"{_labels(frames):,}")
        except TookTooLong as error:
            if (parts := halves(frames)) is None:
                return [self._write_without_slow(frames[0], error)]
            log.warning("%s labels take too long together (%s); halving them", f"{_labels(frames):,}", error)
            share, max_cancelled = max(share / 2, SMALLEST_SHARE), 1
        reports = []
        for part in parts:
            own_share = 1.0 if halves(part) is None else share
            reports += self._write(part, share=own_share, max_cancelled=max_cancelled)
        return reports

    def _write_once(
        self,
        frames: Sequence[LabelFrame],
        built: LabelBatch | None = None,
        *,
        share: float = 1.0,
        max_cancelled: int | None = None,
    ) -> LabelReport:
        """One transaction, tried again while the error is a passing one; then the positions are where it moved them.

        Raises `RefusedData`, and `TookTooLong` when cancelled `max_cancelled` times (None: never).
        """
        batch = replace(built or self.build(frames), progress=progress_of(frames))

        def attempt(share: float) -> LabelReport:
            with self._database.connect("writer") as connection:
                at_work = self._transactions.at_work
                if at_work is not None:
                    self._transactions.at_work = replace(at_work, backend=connection.info.backend_pid)
                limit_transaction(connection, self._role, share)
                return apply_labels(connection, batch, limits=self._limits)

        is_single = halves(frames) is None
        report = self._transactions.retry(attempt, share=share, max_cancelled=max_cancelled, is_single=is_single)
        after = {progress.did: progress.after for progress in batch.progress}
        for position in _positions(frames):
            if position.did in report.moved:
                position.is_lost = True
            else:
                position.seq = after[position.did]
        return report

    def _write_without_slow(self, frame: LabelFrame, error: TookTooLong) -> LabelReport:
        """Writes a dead letter in place of a label that takes too long, unless PostgreSQL is slow at everything.

        A frame without labels (a dead letter already, or a cursor alone) is tried until it is written.
        """
        if not frame.rows:
            return self._write_once([frame])
        pause = backoff.batch()
        while not self._answers_quickly():
            log.error("PostgreSQL is slow at everything, so no label is given up; trying again")
            self._transactions.wait(pause.longest_wait())
            try:
                return self._write_once([frame], max_cancelled=1)
            except TookTooLong as again:
                error = again
        log.error("A label of %s takes too long and is given up as a dead letter: %s", frame.position.did, error)
        return self._write_once([_given_up(frame, "time-out", str(error))])

    def _answers_quickly(self) -> bool:
        """Whether PostgreSQL takes a batch of nothing in a small part of the time that the usual batch has."""
        began = time.monotonic()
        try:
            self._write_once([], max_cancelled=1)
        except TookTooLong:
            return False
        return time.monotonic() - began < QUICK_SHARE * self._transactions.statement_seconds


def progress_of(frames: Iterable[LabelFrame]) -> list[LabelerProgress]:
    """What a batch has of each labeler's stream. Frames with lower numbers than the cursor don't move it back."""
    by_position: dict[str, list[LabelFrame]] = {}
    for frame in frames:
        by_position.setdefault(frame.position.did, []).append(frame)
    return [_progress(by_position[did]) for did in sorted(by_position)]


def _progress(frames: Sequence[LabelFrame]) -> LabelerProgress:
    """Of frames of one labeler."""
    position = frames[0].position
    assert all(frame.position is position for frame in frames), "a batch has one position of each labeler"
    kinds = Counter(letter.kind for frame in frames for letter in frame.rejected)
    return LabelerProgress(
        did=position.did,
        endpoint=position.endpoint,
        before=position.seq,
        after=max([position.seq, *(frame.seq for frame in frames if frame.seq is not None)]),
        frames=sum(not frame.is_part for frame in frames),
        labels=sum(len(frame.rows) for frame in frames),
        rejected_by_kind=kinds,
        newest_cts_micros=max((row.cts_micros for frame in frames for row in frame.rows), default=None),
    )


def in_parts(frames: Sequence[LabelFrame], limit: int) -> list[Sequence[LabelFrame]]:
    """`frames` in parts of at most `limit` labels each; a frame that has more is divided."""
    if sum(frame.labels for frame in frames) <= limit:
        return [frames]
    parts: list[list[LabelFrame]] = [[]]
    room = limit
    for whole in frames:
        frame = whole
        while frame.labels > limit:  # more than any part has room for
            first, frame = divided(frame, limit)
            parts.append([first])
            room = 0
        if frame.labels > room:
            parts.append([])
            room = limit
        parts[-1].append(frame)
        room -= frame.labels
    return [part for part in parts if part]


def halves(frames: Sequence[LabelFrame]) -> tuple[Sequence[LabelFrame], Sequence[LabelFrame]] | None:
    """`frames` in two parts; None where they are one with a single label, or nothing."""
    if len(frames) > 1:
        return frames[: len(frames) // 2], frames[len(frames) // 2 :]
    if not frames or frames[0].labels < 2:
        return None
    first, second = divided(frames[0], frames[0].labels // 2)
    return [first], [second]


def divided(frame: LabelFrame, labels: int) -> tuple[LabelFrame, LabelFrame]:
    """A frame in two: the first has so many labels, and does not move the cursor."""
    rest = max(0, labels - len(frame.rows))
    first = LabelFrame(frame.position, None, frame.rows[:labels], frame.rejected[:rest], is_part=True)
    return first, replace(frame, rows=frame.rows[labels:], rejected=frame.rejected[rest:])


def _given_up(frame: LabelFrame, kind: str, reason: str) -> LabelFrame:
    """A frame with one label, as a dead letter in its place."""
    if not frame.rows:
        raise AssertionError(f"PostgreSQL refuses what is left of a frame of {frame.position.did}: {reason}")
    (row,) = frame.rows
    letter = DeadLetter(
        kind=kind,
        reason=reason,
        seq=row.seq,
        did=frame.position.did,
        path=None,
        bytes=encode_label(as_wire(label_to_send(row))),
        form=LABEL,
    )
    log.warning("A label of %s becomes a dead letter (%s): %s", frame.position.did, kind, reason)
    return replace(frame, rows=[], rejected=[letter])


def _labels(frames: Iterable[LabelFrame]) -> int:
    return sum(frame.labels for frame in frames)


def _positions(frames: Iterable[LabelFrame]) -> Iterable[Position]:
    return {id(frame.position): frame.position for frame in frames}.values()
