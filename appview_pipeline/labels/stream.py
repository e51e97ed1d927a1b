"""The stream of one labeler: from where it is read, how it is, and what waits to be decoded.

A labeler is parked where trying soon can't help: its DID document names no label service or no key, its server gives
out no labels, or nearly all that it sends is rejected. It is tried again about once an hour, and at once when its
document changes. Every other failure is tried again by the subscription itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from appview_pipeline import backoff
from appview_pipeline.identity.cache import KnownIdentity
from appview_pipeline.labels.label_frame import LABEL_BYTES, LabelFrame, Position
from appview_pipeline.network.sequence import LeapingNumbers
from appview_pipeline.network.subscription import Subscription
from appview_pipeline.store.labelers import LabelerIdentity, LabelerState, State

log = logging.getLogger(__name__)

Subscribe = Callable[[str, int], Subscription]
"""Makes the subscription to a server after a cursor; it is not started yet."""

NO_ANSWER = "its DID document has not been fetched yet"
CONNECTING = "its server has not answered yet"


@dataclass
class Stream:
    """One labeler that is read. Times are of `time.monotonic`, but for `connected_at` and `doubted_at` (UNIX).

    `described`: what its DID document said last (state, endpoint, key). `doubt`: the document is being resolved once
    more, because a signature did not fit (since `doubted_at`); `resolution`: for another reason, not before
    `ask_again_at`; `forced_for`: when somebody asked for a newer answer, of the last one that was forced. `held_until`:
    what waits is not decoded before that, because the document can't be had (`held_reason`). `outdated`: the cursor
    after which its server does not have everything any more; None: it has (`noted`: the one that was told last).
    `reread_at`: as stored, last. `numbers` says how far the frames reach that were decoded. `accepted` and `rejected`
    count the newest labels. `is_drained`: nothing that had come waited after the last micro-batch was taken; then all
    that the labeler had sent is applied once `awaited` is, and it has caught up (`is_caught_up`, until that is
    written).
    """

    did: str
    subscribe: Subscribe
    state: State = "new"
    reason: str | None = None
    described: tuple[str | None, str | None, str | None] | None = None
    position: Position | None = None
    subscription: Subscription | None = None
    waiting: deque[bytes] = field(default_factory=deque)
    doubt: Future[KnownIdentity] | None = None
    resolution: Future[KnownIdentity] | None = None
    ask_again_at: float = 0.0
    forced_for: float | None = None
    parked_until: float = 0.0
    reread_at: datetime | None = None
    outdated: int | None = None
    noted: int | None = None
    numbers: LeapingNumbers = field(default_factory=lambda: LeapingNumbers(0))
    newest_cts_micros: int | None = None
    accepted: int = 0
    rejected: int = 0
    rejected_in_all: int = 0
    doubted_at: float = 0.0
    held_until: float = 0.0
    held_reason: str | None = None
    is_drained: bool = False
    awaited: int | None = None
    is_caught_up: bool = False
    connected_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether its stream is read."""
        return self.subscription is not None

    @property
    def has_news(self) -> bool:
        """Whether something has come that is not to wait for the next look: a gap, another document, another cursor."""
        return (
            self.outdated is not None
            or (self.resolution is not None and self.resolution.done())
            or (self.position is not None and self.position.is_lost)
        )

    @property
    def is_held(self) -> bool:
        """Whether what waits can't be decoded, because the key is in doubt."""
        return self.doubt is not None or time.monotonic() < self.held_until

    def hold(self, reason: str, now: float) -> None:
        """Its document can't be resolved, so it can't be decided about what waits: not before a while."""
        self.held_reason, self.held_until = reason, now + backoff.LABELER_HELD_SECONDS

    def open(self, address: str, cursor: int) -> None:
        """Begins to read the stream at `address` after `cursor`."""
        assert self.subscription is None
        self.position = Position(self.did, address, cursor)
        self.numbers = LeapingNumbers(cursor)
        self.subscription = self.subscribe(address, cursor)
        self.subscription.start()
        self._be("waiting", CONNECTING)

    def close(self) -> None:
        """Reads no more; what waits is dropped, and comes again."""
        if self.subscription is not None:
            self.subscription.stop()
        self.subscription = None
        self.waiting.clear()
        self.position = None
        self.doubt = self.held_reason = None
        self.held_until = 0.0
        self.is_drained = self.is_caught_up = False
        self.awaited = self.noted = None

    def park(self, reason: str, now: float) -> None:
        """Reads no more until its time has come, or its document or its cursor changes."""
        if self.state != "parked" or self.reason != reason:
            log.warning("Labeler %s is parked: %s", self.did, reason)
        self.close()
        self._be("parked", reason)
        self.parked_until = now + backoff.parked_labeler()

    def wait(self, reason: str) -> None:
        """It can't be read yet."""
        self._be("waiting", reason)

    def describe(self, identity: LabelerIdentity) -> bool:
        """Takes note of its DID document; returns whether that says something else than before. With another endpoint
        the stream is closed."""
        described = (identity.state, identity.endpoint, identity.key)
        if described == self.described:
            return False
        if self.described is not None:
            log.info("The DID document of labeler %s says: %s, key %s", self.did, identity.endpoint, identity.key)
        if self.described is None or self.described[1] != identity.endpoint or self.state == "parked":
            self.close()
        self.described = described
        self.parked_until = self.held_until = 0.0
        self.accepted = self.rejected = 0
        return True

    def observe(self, now: float) -> None:
        """Takes note of how the connection is. Parks the labeler where trying soon can't help, once nothing waits."""
        assert self.subscription is not None and self.position is not None
        status = self.subscription.status
        # What came before is applied first: the server may not send it again.
        if not (self.waiting or status.buffered_frames):
            if status.state == "future_cursor":
                how = f"(appview-pipeline labels subscribe {self.did} --from-start)"
                self.park(f"{status.last_error} {how}", now)
                return
            if status.hopeless and not status.connected:
                self.park(status.last_error or "its server refuses the stream", now)
                return
        if self.held_reason is not None:
            self._be("waiting", self.held_reason)
        elif status.connected:
            self._be("connected", None)
        elif status.last_error is not None:
            self._be("waiting", status.last_error)
        else:
            self._be("waiting", CONNECTING)
        if not status.connected or self.is_held:
            self.awaited = None
            return
        if self.awaited is None and self.is_drained and self._is_at_the_end(status.last_frame_at):
            self.awaited = self.numbers.reached or 0
        if self.awaited is not None and self.position.seq >= self.awaited:
            self.is_caught_up, self.awaited = True, None

    def _is_at_the_end(self, last_frame_at: float | None) -> bool:
        """Whether nothing more of the past comes: the stream is quiet, or its labels are new."""
        now = time.time()
        if self.newest_cts_micros is not None and now - self.newest_cts_micros / 1e6 < backoff.LABELER_NEW_SECONDS:
            return True
        return now - max(last_frame_at or 0.0, self.connected_at) >= backoff.LABELER_QUIET_SECONDS

    def take(self, frames: int, size: int) -> list[bytes]:
        """The oldest frames: at most so many, and of at most so many bytes, but for one frame. Nothing while the key is
        in doubt, or while a gap before them has to be noted."""
        if self.subscription is None or self.is_held:
            return []
        if not self.waiting:
            self.waiting.extend(self.subscription.take(frames, 0))
            # What the stream said of these frames is known by now. A gap before them is stored before they are.
            self.listen()
        if self.outdated is not None:
            return []
        taken: list[bytes] = []
        while self.waiting and len(taken) < frames and (not taken or size >= len(self.waiting[0])):
            taken.append(self.waiting.popleft())
            size -= len(taken[-1])
        return taken

    def give_back(self, frames: list[bytes]) -> None:
        """Frames that were taken and not decoded."""
        self.waiting.extendleft(reversed(frames))

    def listen(self) -> None:
        """Takes note of what the stream says about itself. Numbers that leap or go back mean nothing here: with some
        labelers they always do. Messages that are too large end the connection, and the labeler is parked."""
        if self.subscription is None:
            return
        for notice in self.subscription.notices():
            is_gap = notice.kind == "info" and notice.name == "OutdatedCursor" and notice.cursor
            if is_gap and notice.cursor != self.noted:  # it may say so a thousand times a second
                log.warning("Labeler %s does not have all that came after %s any more", self.did, notice.cursor)
                self.outdated = self.noted = notice.cursor

    def count(self, frames: list[LabelFrame], now: float) -> None:
        """Counts what came; parks the labeler where nearly all of it is rejected."""
        for frame in frames:
            if frame.seq is not None and self.numbers.add(frame.seq) == "doubtful":
                frame.seq = None  # a number that was made up must not cost what comes after it
            self.accepted += len(frame.rows)
            # A frame that can't be read counts as the labels that it has room for: it costs as much.
            self.rejected += sum(1 + len(letter.bytes) // LABEL_BYTES for letter in frame.rejected)
            self.rejected_in_all += len(frame.rejected)
            if frame.rows:
                newest = max(row.cts_micros for row in frame.rows)
                self.newest_cts_micros = max(self.newest_cts_micros or newest, newest)
        total = self.accepted + self.rejected
        if (
            self.rejected >= backoff.LABELER_REJECTED
            and self.rejected > backoff.LABELER_REJECTED_SHARE * total
            and self.is_open
        ):
            kinds = [letter for frame in frames for letter in frame.rejected]
            why = f", lately because: {kinds[-1].reason}" if kinds else ""
            self.park(f"of its last {total:,} labels {self.rejected:,} were rejected{why}", now)
            self.accepted = self.rejected = 0
        elif total >= 2 * backoff.LABELER_REJECTED:  # what is long ago counts less and less
            self.accepted //= 2
            self.rejected //= 2

    def stored_state(self) -> LabelerState:
        """How it is, as `pipeline.labeler` has it."""
        cursor = 0 if self.position is None else self.position.seq
        return LabelerState(self.did, self.state, self.reason, self.is_caught_up, cursor)

    def _be(self, state: State, reason: str | None) -> None:
        if state == "connected" and self.state != "connected":
            log.info("Labeler %s is connected", self.did)
            self.connected_at = time.time()
        self.state, self.reason = state, reason
