"""What a subscription has to say about its stream, beside the stream's events."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

MAX_NOTICES = 1_000
"""Notices kept until the consumer takes them; beyond that the oldest are dropped, and counted."""
MAX_NOTICES_BYTES = 1_000_000
"""Bytes of their frames. There is always room for the newest one."""

NoticeKind = Literal["info", "error", "gap", "went_back", "oversized", "text"]
"""`info` and `error`: the server said so (`frame` is its frame). `gap`: between `cursor` and `first_seq` events are
missing. `went_back`: the server continued before `cursor`, as a relay does that was reset. `oversized`: the event
after `cursor` was larger than the protocol allows and is skipped. `text`: the server sent text, which is ignored."""


@dataclass(frozen=True)
class Notice:
    """`name` is the server's word for it, if it has one. `cursor` is what the connection had resumed from, `at` UNIX
    time."""

    kind: NoticeKind
    name: str
    message: str
    cursor: int | None
    first_seq: int | None = None
    frame: bytes = b""
    at: float = 0.0


class Notices:
    """A bounded queue: the network's thread adds, the consumer's takes. `news` is set with every notice."""

    def __init__(self, news: threading.Event | None = None) -> None:
        self._lock = threading.Lock()
        self._notices: deque[Notice] = deque()
        self._bytes = 0
        self._news = news
        self.dropped = 0

    def add(self, notice: Notice) -> None:
        """Adds a notice, with the time."""
        with self._lock:
            self._bytes += len(notice.frame)
            while self._notices and (len(self._notices) >= MAX_NOTICES or self._bytes > MAX_NOTICES_BYTES):
                self._bytes -= len(self._notices.popleft().frame)
                self.dropped += 1
            self._notices.append(replace(notice, at=time.time()))
        if self._news is not None:
            self._news.set()

    def take(self) -> list[Notice]:
        """All notices, oldest first."""
        with self._lock:
            taken = list(self._notices)
            self._notices.clear()
            self._bytes = 0
        return taken
