"""Frames of a relay's stream to changes: those of one shard, and what the stream says about itself.

A consumer of a shard receives the whole stream and drops the frames of other shards before they are decoded. What
belongs to no repository (damaged frames, frames too large to receive) is shard 0's. A gap is noted by every shard that
notices it.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import lt

from appview_pipeline.indexing.changes import Change, DeadLetter, Gap
from appview_pipeline.indexing.events import position
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators
from appview_pipeline.ingest.decoding import LookUp, read_changes
from appview_pipeline.ingest.live.sequence_numbers import Seen, SequenceNumbers
from appview_pipeline.ingest.verification import Verifier
from appview_pipeline.network.notices import Notice
from appview_pipeline.protocol.peek import peek_did, peek_seq
from appview_pipeline.shards import Shard

log = logging.getLogger(__name__)

POSITION_SECONDS = 2.0
"""How long frames of other shards alone don't move the cursor."""


class StreamDecoder:
    """Makes changes of what a subscription receives, in its order. `notices`: gives those since it was last called;
    `verifier`: verifies commits beyond their structure (None: nothing does); `gap`: what is missing before the stream's
    first event, noted with that (None: nothing is)."""

    def __init__(
        self,
        *,
        shard: Shard,
        numbers: SequenceNumbers,
        notices: Callable[[], list[Notice]],
        validators: Validators,
        collections: IndexedCollections,
        verifier: Verifier | None = None,
        gap: Gap | None = None,
    ) -> None:
        self._shard = shard
        self._gap = gap
        self._numbers = numbers
        self._notices = notices
        self._validators = validators
        self._collections = collections
        self._verifier = verifier
        self._position: Change | None = None  # how far the frames of other shards reach that came since the last batch
        self._position_due = 0.0

    def changes(self, frames: list[bytes], look_up: LookUp | None) -> list[Change]:
        """The changes of `frames`; without frames those that the stream's silence or its notices amount to."""
        changes = self._noticed(self._notices())
        own = own_frames(frames, self._shard)
        decoded = read_changes(own, self._validators, self._collections, look_up, self._verifier)
        seen = self._numbers.see(numbers_of(frames, decoded, self._shard), time.monotonic())
        changes += self._numbers.changes_of(seen)
        if self._gap is not None and frames:
            changes.append(Change(size=0, is_position=True, gaps=[self._gap]))
            self._gap = None
        changes += _placed(frames, decoded, self._shard, seen)
        if len(own) < len(frames):
            self._position = _position(frames, self._numbers.reached, seen) or self._position
        if self._position is not None and (changes or self._position.restarts_at or self._is_position_due()):
            changes.append(self._position)
            self._position = None
        if changes:
            self._position_due = time.monotonic() + POSITION_SECONDS
        return changes

    def _is_position_due(self) -> bool:
        return time.monotonic() >= self._position_due

    def _noticed(self, notices: list[Notice]) -> list[Change]:
        """What the stream says about itself, as changes: dead letters are written with the next batch.

        Whether a connection that does not go on where it should leaves a gap is known from its sequence numbers.
        """
        changes = []
        for notice in notices:
            log.log(logging.INFO if notice.kind == "info" else logging.WARNING, "%s", notice.message)
            if notice.kind in ("gap", "went_back") and notice.first_seq is not None:
                kind = "outdated_cursor" if notice.name == "OutdatedCursor" else "sequence"
                self._numbers.connected(notice.first_seq, kind)
            elif notice.kind == "oversized":
                if notice.cursor is not None:
                    self._numbers.oversized(notice.cursor)
                if self._shard.is_first:
                    letter = DeadLetter(
                        kind="frame-size", reason=notice.message, seq=None, did=None, path=None, bytes=notice.frame
                    )
                    changes.append(Change(size=len(notice.frame), dead_letters=[letter]))
        return changes


def own_frames(frames: list[bytes], shard: Shard) -> list[bytes]:
    """Those of `frames` that are the shard's, in their order."""
    return frames if shard.count == 1 else [frame for frame in frames if shard.takes(peek_did(frame))]


def numbers_of(frames: list[bytes], decoded: list[Change], shard: Shard) -> Sequence[int | None]:
    """The sequence numbers of all frames, of whatever shard; None for one that can't be read, and may stand for any.

    `decoded`: the changes of the shard's own frames.
    """
    own = [None if change.dead_letters and change.dead_letters[0].did is None else change.seq for change in decoded]
    if shard.count == 1 or not frames:
        return own
    # Other shards' frames are not decoded. Nearly always both ends prove that nothing but them lies in between.
    first, last = peek_seq(frames[0]), peek_seq(frames[-1])
    known = [number for number in own if number is not None]
    if first is not None and last is not None and last - first == len(frames) - 1 and len(known) == len(own):
        rising = all(map(lt, [first - 1, *known], [*known, last + 1]))
        if rising:
            return range(first, last + 1)
    return [peek_seq(frame) for frame in frames]


def _placed(frames: list[bytes], decoded: list[Change], shard: Shard, seen: Seen) -> list[Change]:
    """The changes of the shard's own frames, with what their numbers mean for the cursor."""
    if not seen.doubtful and seen.restart is None:
        return decoded
    own = [index for index, frame in enumerate(frames) if shard.count == 1 or shard.takes(peek_did(frame))]
    for change, index in zip(decoded, own, strict=True):
        change.is_doubtful = index in seen.doubtful
    if seen.restart is None:
        return decoded
    at = bisect_left(own, seen.restart)
    first = next((change.seq for change in decoded[at:] if change.seq is not None), None)
    return [*decoded[:at], Change(size=0, restarts_at=first, is_position=True), *decoded[at:]]


def _position(frames: list[bytes], reached: int | None, seen: Seen) -> Change | None:
    """How far the stream has got after `frames`: the time of the last that has one, and the number that counts."""
    change = next((change for change in map(position, reversed(frames)) if change is not None), None)
    if change is not None:
        change.seq = reached
        change.restarts_at = None if seen.restart is None else reached
    return change
