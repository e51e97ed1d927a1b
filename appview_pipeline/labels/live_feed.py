"""The newest part of the label feed, as frames: read from the database once, for all clients that are up to date.

Each client has a position: the id up to which it was sent everything. `LiveFeed` holds the frames of the last events
(`MAX_BYTES`), in parts that follow one another without a hole. A client whose position is within them goes on from
there; one that is behind, or within a frame, reads pages from the database itself, up to where a part ended. Since both
go by ids, which rise in the order of commits, nothing is missed or sent twice at the seam.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.feed import FutureCursor, check_cursor
from appview_pipeline.labels.stored_label import label_to_send
from appview_pipeline.protocol.label import as_wire
from appview_pipeline.protocol.label_frames import labels_frame
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.label_feed import FeedBounds, LabelEvent, feed_bounds, listen, read_feed

log = logging.getLogger(__name__)

PAGE = 1_000
"""Rows of `pipeline.label_event` that one read of what is new looks at."""
MAX_FRAME_LABELS = 50
"""Labels in one frame: a client that is many labels behind would spend most of its time on frames."""
MAX_BYTES = 16_000_000
MAX_PARTS = 1_000
"""Bytes of frames, and reads of the database, that are held for clients that are nearly up to date."""


class Frame(NamedTuple):
    """Labels on the wire. `first` and `seq`: ids of the first and of the last of them."""

    first: int
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The frames of the events after `after` up to `to`."""

    after: int
    to: int
    frames: Sequence[Frame]
    size: int


class Behind(Exception):
    """A position is older than what is held in memory, or within a frame of it."""


@dataclass(frozen=True)
class ServedFeed:
    """What is served: the labels of `sources` (None: of all), those without a signature only if `unsigned`."""

    database: Database
    sources: Collection[str] | None = None
    unsigned: bool = False

    def bounds(self) -> FeedBounds:
        """Which cursors the feed knows. Raises errors as `Database.connect` does."""
        with self.database.connect("reader") as connection:
            return feed_bounds(connection, self.sources)

    def read(self, after: int, limit: int, until: int | None = None) -> Part:
        """The next part after an id, of at most `limit` rows. `until`: an id that was the newest before, at which it
        ends at last. A part that ends where it begins is the end of the feed.

        Raises errors as `Database.connect` does.
        """
        with self.database.connect("reader") as connection:
            page = read_feed(connection, after, limit=limit, until=until, sources=self.sources, unsigned=self.unsigned)
        frames = list(frames_of(page.events))
        return Part(after, page.cursor, frames, sum(len(frame.data) for frame in frames))


def frames_of(events: Sequence[LabelEvent]) -> list[Frame]:
    """The frames that hold events, in their order."""
    groups = [events[at : at + MAX_FRAME_LABELS] for at in range(0, len(events), MAX_FRAME_LABELS)]
    return [
        Frame(group[0].id, group[-1].id, labels_frame(group[-1].id, [as_wire(label_to_send(event)) for event in group]))
        for group in groups
    ]


class LiveFeed:
    """The newest parts of a feed, read by a thread. Everything else belongs to the thread of the event loop."""

    def __init__(self, feed: ServedFeed, begin: int, failed: Callable[[BaseException], None]) -> None:
        """`begin`: the id after which it begins, the newest one. `failed` is called with what has ended the thread,
        where it should have gone on."""
        self._feed = feed
        self._failed = failed
        self._to = begin
        self._parts: deque[Part] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name="live label feed", daemon=True)

    @property
    def to(self) -> int:
        """The id up to which it was read."""
        return self._to

    def start(self) -> None:
        """Begins to read. Returns at once."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def after(self, position: int) -> Part | None:
        """The frames after a position, as far as one part goes; None: there is nothing newer. Raises `Behind`."""
        if position >= self._to:
            return None
        for part in reversed(self._parts):
            if part.after <= position:
                frames = [frame for frame in part.frames if frame.seq > position]
                if frames and frames[0].first <= position:
                    break  # a client came with this cursor, or a page of the database ended there
                return replace(part, frames=frames)
        raise Behind

    async def wait(self, position: int) -> None:
        """Returns when there is something newer than a position."""
        while position >= self._to:
            await self._more.wait()

    # For the thread.

    def _main(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._failed, error)

    def _read(self) -> None:
        position = self._to
        for _ in listen(self._feed.database, stopped=self._stopping.is_set):
            try:
                while not self._stopping.is_set():
                    part = self._feed.read(position, PAGE)
                    if part.to == position:
                        check_cursor(self._feed.bounds(), position)
                        break
                    position = part.to
                    # One part at a time: a busy loop makes this thread wait.
                    asyncio.run_coroutine_threadsafe(self._add(part), self._loop).result()
            except FutureCursor:
                raise OperatorError(
                    "The database of labels was replaced by an older copy while they were served: start the label "
                    "service again, so that its clients find out."
                ) from None
            except (DatabaseError, OperatorError) as error:
                log.warning("The label feed can't be read (%s).", error)

    async def _add(self, part: Part) -> None:
        self._to = part.to
        if part.frames or not self._parts:
            self._parts.append(part)
            self._size += part.size
        else:
            self._parts[-1] = replace(self._parts[-1], to=part.to)
        while len(self._parts) > 1 and (self._size > MAX_BYTES or len(self._parts) > MAX_PARTS):
            self._size -= self._parts.popleft().size
        more, self._more = self._more, asyncio.Event()
        more.set()
