"""The streams of all labelers that are read, in one loop: whoever is due to be read, looked at, parked or reported.

Each labeler has a subscription of its own; one thread receives for all of them. A labeler that hangs, floods or is slow
holds up nobody: documents are resolved in other threads, a buffer that is full is not read further, and of each stream
a limited number of frames goes into one micro-batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.decoding import LookUp
from appview_pipeline.labels.choice import choose, queue_repositories
from appview_pipeline.labels.decoding import read_frames
from appview_pipeline.labels.label_frame import LABEL_BYTES, LabelFrame, Position
from appview_pipeline.labels.resolutions import Resolutions
from appview_pipeline.labels.stream import NO_ANSWER, Stream
from appview_pipeline.labels.verification import LabelerKeys
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.loop_thread import LoopThread
from appview_pipeline.network.strangers import labeler_address
from appview_pipeline.network.subscription import SUBSCRIBE_LABELS, Subscription
from appview_pipeline.protocol.event_stream import printable
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.labelers import (
    LabelerIdentity,
    LabelerState,
    StoredLabeler,
    labeler_identities,
    labelers,
    note_gap,
    open_labeler,
    reread_gaps,
    set_states,
)

log = logging.getLogger(__name__)

MAX_BUFFER_BYTES = 8_000_000
MIN_BUFFER_BYTES = 65_536
"""Bounds of one stream's share of `APPVIEW_BUFFER_BYTES`. A buffer takes one frame more, whatever its size."""
WINDOW_BYTES = 512 * 1024
"""Bytes of one stream that the kernel may hold for us: there may be hundreds of streams."""

ENDED = "the label process has ended, so nobody reads it"
"""The reason of labelers that wait while no process runs."""

_STATES = {
    "not found": "there is no DID document of it",
    "tombstoned": "its DID was given up",
    "invalid": "its DID document can't be used",
}


class Taken(NamedTuple):
    """Frames of one labeler, in their order."""

    stream: Stream
    position: Position
    frames: list[bytes]


class Streams:
    """All streams. For one thread, but for `wake`.

    `resolutions` fetches DID documents, `hosts` has the rules by which servers may be connected to.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        resolutions: Resolutions,
        hosts: Hosts,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._database = database
        self._resolutions = resolutions
        self._hosts = hosts
        self._stopped = stopped
        self._keys = LabelerKeys(settings.unsigned_labelers)
        self._streams: dict[str, Stream] = {}
        self._wanted: list[str] = []
        self._loop = LoopThread("labelers")
        self._news = threading.Event()
        self._is_woken = False
        self._choice_due = self._look_due = self._states_due = 0.0
        self._written: dict[str, tuple[str, str | None, bool]] = {}
        self._turn = 0

    @property
    def streams(self) -> Sequence[Stream]:
        """The labelers that are read."""
        return list(self._streams.values())

    def wake(self) -> None:
        """Makes a `take` that waits return at once. May be called from any thread."""
        self._is_woken = True
        self._news.set()

    def say_the_end(self) -> None:
        """Writes that nobody reads the streams any more. Raises as `step`."""
        for stream in self._streams.values():
            if stream.state != "parked":
                stream.wait(ENDED)
        self._write_states(time.monotonic())

    def close(self) -> None:
        """Ends all subscriptions."""
        for stream in self._streams.values():
            if stream.subscription is not None:
                stream.subscription.begin_stop()
        for stream in self._streams.values():
            stream.close()
        self._loop.stop()

    # ---- looking

    def step(self) -> None:
        """Looks at what has changed, and writes how the streams are, where that is due.

        Raises `DatabaseError` and `OperatorError` where the database is away; nothing is lost by it.
        """
        now = time.monotonic()
        if now >= self._look_due or any(stream.has_news for stream in self._streams.values()):
            self._look(now)
            self._look_due = now + backoff.LABELERS_LOOK_SECONDS
        for stream in self._streams.values():
            if stream.is_open:
                stream.listen()
                stream.observe(now)
        self._write_states(now)

    def _look(self, now: float) -> None:
        for stream in self._streams.values():
            if stream.resolution is not None and stream.resolution.done():
                if (error := stream.resolution.exception()) is not None:
                    log.warning("The DID document of labeler %s could not be looked up: %s", stream.did, error)
                stream.resolution = None
        # Before the database is read: what it has is the same, or newer, unless somebody has moved it back.
        reached = {did: it.position.seq for did, it in self._streams.items() if it.position is not None}
        if any(it.position is not None and it.position.is_lost for it in self._streams.values()):
            self._choice_due = now  # its account may have opted out
        if now >= self._choice_due:
            with self._database.connect("writer") as connection:
                self._wanted = choose(connection, self._settings)
            with self._database.connect("writer") as connection:
                queue_repositories(connection, self._settings, self._wanted)
        with self._database.connect("writer") as connection:
            for stream in self._streams.values():
                if stream.outdated is not None:
                    note_gap(connection, stream.did, stream.outdated)
            for did in reread_gaps(connection, backoff.LABELER_REREAD_SECONDS):
                log.warning("Labeler %s is read from the beginning again, because of a gap", did)
            stored = {it.did: it for it in labelers(connection) if it.is_wanted}
            known = labeler_identities(connection, self._wanted)
        if now >= self._choice_due:
            self._choice_due = now + backoff.LABELERS_CHOICE_SECONDS
        for stream in self._streams.values():
            stream.outdated = None
        wanted = [did for did in self._wanted if did in stored]
        for did in self._streams.keys() - set(wanted):
            self._drop(did)
        for did in wanted:
            if did not in self._streams:
                self._streams[did] = Stream(did, self._subscription, reread_at=stored[did].reread_at)
            self._update(self._streams[did], stored[did], known.get(did), reached.get(did), now)

    def _drop(self, did: str) -> None:
        log.info("Labeler %s is not read any more", did)
        self._streams.pop(did).close()
        self._keys.forget(did)
        self._written.pop(did, None)

    def _update(
        self,
        stream: Stream,
        stored: StoredLabeler,
        identity: LabelerIdentity | None,
        reached: int | None,
        now: float,
    ) -> None:
        """Brings a stream in line with its labeler's document and its stored cursor."""
        position = stream.position
        is_reread, stream.reread_at = stored.reread_at != stream.reread_at, stored.reread_at
        if position is not None and (
            position.is_lost
            or is_reread
            or stored.endpoint != position.endpoint
            or (reached is not None and stored.cursor < reached)
        ):
            log.info("The cursor of labeler %s was moved; it is read from there", stream.did)
            stream.close()
            self._written.pop(stream.did, None)
        if is_reread:
            stream.parked_until = 0.0
        self._resolve(stream, identity, now)
        if identity is None or identity.state is None:
            if not stream.is_open:
                stream.wait(NO_ANSWER if identity is None or identity.error is None else identity.error)
            return
        stream.describe(identity)
        self._keys.set(stream.did, identity.key)
        if (reason := self._unreadable(identity)) is not None:
            if stream.state != "parked" or stream.reason != reason:
                stream.park(reason, now)
        elif not stream.is_open and now >= stream.parked_until:
            self._open(stream, identity, now)

    def _unreadable(self, identity: LabelerIdentity) -> str | None:
        """Why a labeler can't be read, by its document; None: it can."""
        if identity.state != "found":
            why = _STATES.get(identity.state or "", f"its DID is {identity.state}")
            return why if identity.error is None else f"{why}: {identity.error}"
        if identity.endpoint is None:
            return "its DID document names no label service (#atproto_labeler)"
        if identity.key is None and self._keys.needs_key(identity.did):
            return "its DID document has no key for labels (#atproto_label), and there is none in its place"
        return None

    def _resolve(self, stream: Stream, identity: LabelerIdentity | None, now: float) -> None:
        """Has its document fetched where it is not known, or old, or where a newer one is asked for and nobody else
        fetches it. What comes of it is in the database at the next look."""
        if stream.resolution is not None or now < stream.ask_again_at:
            return
        force = False
        if identity is not None and identity.state is not None and identity.resolved_at is not None:
            is_fresh = identity.resolved_at + self._settings.identity_fresh_seconds > time.time()
            asked_at = identity.asked_at
            if asked_at is not None and asked_at > identity.resolved_at:
                if time.time() - asked_at < backoff.LABELER_EVENT_SECONDS:
                    return
                force = stream.forced_for != asked_at
                stream.forced_for = asked_at
            elif is_fresh:
                return
        elif identity is not None and identity.error is None and identity.asked_at is not None:
            # What memory has is older: the account was removed, or had opted out, and came back.
            force = stream.forced_for != identity.asked_at
            stream.forced_for = identity.asked_at
        stream.ask_again_at = now + backoff.LABELERS_LOOK_SECONDS
        stream.resolution = self._resolutions.ask(stream.did, force=force)

    def _open(self, stream: Stream, identity: LabelerIdentity, now: float) -> None:
        assert identity.endpoint is not None
        try:
            address = labeler_address(identity.endpoint, self._hosts)
        except FetchError as error:
            stream.park(f"its server may not be asked: {error}", now)
            return
        with self._database.connect("writer") as connection:
            cursor = open_labeler(connection, stream.did, address)
        if cursor is not None:
            stream.open(address, cursor)

    def _subscription(self, address: str, cursor: int) -> Subscription:
        share = self._settings.buffer_bytes // max(len(self._wanted), 1)
        return Subscription(
            address,
            cursor,
            min(max(share, MIN_BUFFER_BYTES), MAX_BUFFER_BYTES),
            stream=SUBSCRIBE_LABELS,
            setting="the label service in its DID document",
            window_bytes=WINDOW_BYTES,
            backoff=backoff.labeler(),
            hosts=self._hosts,
            loop=self._loop,
            news=self._news,
        )

    def _write_states(self, now: float) -> None:
        """Writes the states that have changed, and all of them every some seconds."""
        states = [stream.stored_state() for stream in self._streams.values()]
        if now < self._states_due:
            states = [it for it in states if self._is_news(it)]
        if not states:
            return
        with self._database.connect("writer") as connection:
            if (closed := set_states(connection, states)) > 0:
                log.info("%d gaps of labelers are closed: their streams were read again", closed)
        if now >= self._states_due:
            self._states_due = now + backoff.LABELER_STATES_SECONDS
        for state in states:
            stream = self._streams[state.did]
            has_caught_up = stream.is_open and (state.is_caught_up or self._has_caught_up(state.did))
            self._written[state.did] = state.state, state.reason, has_caught_up
            stream.is_caught_up = False

    def _is_news(self, state: LabelerState) -> bool:
        """Whether a state is to be written at once: it has changed, or the labeler has caught up for the first time."""
        if state.is_caught_up and not self._has_caught_up(state.did):
            return True
        written = self._written.get(state.did)
        return written is None or written[:2] != (state.state, state.reason)

    def _has_caught_up(self, did: str) -> bool:
        return did in self._written and self._written[did][2]

    # ---- reading

    def take(self) -> list[Taken]:
        """The next micro-batch: the oldest frames of every stream, fairly. Waits until there is enough for a batch, or
        `APPVIEW_BATCH_SECONDS`."""
        self._wait()
        self._settle_doubts()
        streams = [stream for stream in self._streams.values() if stream.is_open]
        self._turn += 1
        first = self._turn % len(streams) if streams else 0
        streams = streams[first:] + streams[:first]
        left, size = self._settings.batch_events, self._settings.batch_events * LABEL_BYTES
        taken: dict[str, Taken] = {}
        # Each has the same share, and at least one frame, however large those of others are; what some don't use is for
        # the others.
        is_first_round = True
        while streams and (is_first_round or (left > 0 and size > 0)):
            share, bytes_each = max(1, left // len(streams)), max(1, size // len(streams))
            busy = []
            for stream in streams:
                if not is_first_round and (left <= 0 or size <= 0):
                    busy.append(stream)
                    continue
                frames = stream.take(share, bytes_each)
                if frames and stream.position is not None:
                    taken.setdefault(stream.did, Taken(stream, stream.position, [])).frames.extend(frames)
                    left -= len(frames)
                    size -= sum(map(len, frames))
                    busy.append(stream)
            streams, is_first_round = busy, False
        waiting = {stream.did for stream in streams}
        for stream in self._streams.values():
            is_taken_from = stream.is_open and not stream.is_held and stream.outdated is None
            stream.is_drained = is_taken_from and stream.did not in waiting
        return list(taken.values())

    def _wait(self) -> None:
        until = time.monotonic() + self._settings.batch_seconds
        has_news = False
        while not (self._stopped() or self._is_woken) and (left := until - time.monotonic()) > 0:
            self._news.clear()
            waiting = 0
            for stream in self._streams.values():
                if stream.subscription is None or stream.is_held:
                    continue
                status = stream.subscription.status
                if status.reading_paused:
                    return
                waiting += status.buffered_frames + len(stream.waiting)
            if waiting >= self._settings.batch_events:
                return
            if waiting or has_news:  # more of it is on its way; or news that are no frames, of which there may be many
                time.sleep(min(left, backoff.LABELS_POLL_SECONDS))
                has_news = False
            else:
                has_news = self._news.wait(min(left, backoff.LABELERS_IDLE_SECONDS))
        self._is_woken = False

    def _settle_doubts(self) -> None:
        """Uses the keys of documents that were resolved once more, because signatures did not fit. Without a newer
        document nothing is rejected: the frames wait."""
        now = time.monotonic()
        for stream in self._streams.values():
            if stream.doubt is None or not stream.doubt.done():
                continue
            answer, stream.doubt = stream.doubt, None
            try:
                identity = answer.result()
            except (DatabaseError, OperatorError) as error:
                # The database is away: the frames are asked about again when it is there.
                log.warning("The key of labeler %s could not be looked up: %s", stream.did, error)
                continue
            except Exception as error:  # a defect of ours that its document triggers must not hold up the others
                log.error("The key of labeler %s could not be looked up", stream.did, exc_info=error)
                why = f"this program failed at its DID document ({printable(f'{type(error).__name__}: {error}')})"
                stream.hold(f"a signature does not fit its key, and {why}", now)
                continue
            if identity.state is None or (identity.resolved_at or 0.0) < stream.doubted_at:
                why = identity.reason or "nobody answers"
                stream.hold(f"a signature does not fit its key, and its DID document can't be resolved: {why}", now)
                continue
            self._look_due = 0.0  # the endpoint may have changed as well
            if identity.labeler_key is None and self._keys.needs_key(stream.did):
                # Until the look that parks it. Its labels come again if it has a key again.
                stream.hold("a signature does not fit its key, and its DID document has none any more", now)
                continue
            self._keys.resolved(stream.did, identity.labeler_key)

    def decode(self, taken: list[Taken], _look_up: LookUp | None = None) -> list[LabelFrame]:
        """What was taken, as labels and dead letters. Frames that can't be decided about yet go back to their
        stream."""
        now_micros, now = time.time_ns() // 1_000, time.monotonic()
        decoded: list[LabelFrame] = []
        for stream, position, frames in taken:
            if stream.position is not position:
                continue  # closed since; it comes again
            try:
                read, count = read_frames(frames, position, self._keys, now_micros)
            except Exception as error:  # a defect of ours that a labeler triggers must not hold up the others
                log.exception("What labeler %s sent can't be read", stream.did)
                why = f"{type(error).__name__}: {error}".replace("\0", "")[:500]
                stream.park(f"this program failed at what it sent after {position.seq} ({why})", now)
                continue
            stream.held_reason = None  # it has a key that fits, or is in doubt once more
            if count < len(frames):
                stream.give_back(frames[count:])
                stream.doubted_at = time.time()
                stream.doubt = self._resolutions.ask(stream.did, force=True)
            stream.count(read, now)
            decoded += read
        return decoded
