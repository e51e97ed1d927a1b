"""`com.atproto.label.subscribeLabels`, served: from a cursor through the past to what is new, for as long as a client
keeps up (https://atproto.com/specs/event-stream).

A client is kept as long as it takes frames in. It is ended with `ConsumerTooSlow` when it has not taken in what was
sent for `LABELS_SEND_SECONDS`, or when the feed has run away from it and its socket was full most of the time. A client
that is behind for another reason (it has just come, or this server is busy) goes on with pages from the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.client_sockets import socket_of
from appview_pipeline.labels.feed import FutureCursor, check_cursor
from appview_pipeline.labels.live_feed import Behind, LiveFeed, Part, ServedFeed
from appview_pipeline.labels.xrpc_answers import DATABASE_AWAY, Refused, error_answer, number, unavailable
from appview_pipeline.protocol.event_stream import MAX_SEQ
from appview_pipeline.protocol.label_frames import error_frame, info_frame
from appview_pipeline.store.errors import DatabaseError

log = logging.getLogger(__name__)

READERS = 2
"""Threads that read pages from the database for clients that are behind."""
PAGE = 200
"""Rows that such a page looks at. Each client that is behind has one in memory, and some labels are large."""
POLICY_VIOLATION = 1008
"""Close code of a stream that is ended with an error frame, as other servers of the protocol have it."""


class _TooSlow(Exception):
    """A client does not keep up; the message says how."""


class LabelStreams:
    """The clients of one server. Used by the event loop's thread only."""

    def __init__(self, feed: ServedFeed, live: LiveFeed, limit: int) -> None:
        """`limit`: of clients at the same time."""
        self._feed = feed
        self._live = live
        self._limit = limit
        self._clients = 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="label-pages")

    @property
    def clients(self) -> int:
        """How many there are now."""
        return self._clients

    def close(self) -> None:
        """Ends the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def serve(self, websocket: WebSocket) -> None:
        """Serves one client to its end."""
        self._clients += 1
        try:
            cursor = number(websocket, "cursor", 0, MAX_SEQ)
            if self._clients > self._limit:
                raise unavailable(f"There are {self._limit} streams already, which is the limit.")
            future, is_outdated = await self._check(cursor)
            await websocket.accept()
            client = _Client(websocket)
            try:
                await self._serve(client, cursor, future, is_outdated)
            finally:
                client.socket.give_up_soon()
        except Refused as refused:
            log.info("%s was refused: %s", _name(websocket), refused)
            await websocket.send_denial_response(error_answer(refused))
        finally:
            self._clients -= 1

    async def _check(self, cursor: int | None) -> tuple[FutureCursor | None, bool]:
        """Whether a cursor lies in the future, and whether it is outdated. Raises `Refused`."""
        if not cursor:
            return None, False
        try:
            bounds = await asyncio.get_running_loop().run_in_executor(self._readers, self._feed.bounds)
            return None, check_cursor(bounds, cursor)
        except FutureCursor as error:
            return error, False
        except (DatabaseError, OperatorError) as error:
            log.warning("The label feed can't be read (%s).", error)
            raise unavailable(DATABASE_AWAY) from None

    async def _serve(self, client: _Client, cursor: int | None, future: FutureCursor | None, is_outdated: bool) -> None:
        log.info("%s connected %s", client.name, "at the newest label" if cursor is None else f"after {cursor}")
        if future is not None:
            client.end("FutureCursor", str(future))
            return
        position = self._live.to if cursor is None else cursor
        sending = asyncio.create_task(self._send_all(client, position, is_outdated))
        listening = asyncio.create_task(client.until_gone())
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            listening.cancel()
            results = await asyncio.gather(sending, listening, return_exceptions=True)
        for result in results:
            if isinstance(result, _TooSlow):
                client.end("ConsumerTooSlow", str(result))
            elif isinstance(result, WebSocketDisconnect):
                log.info("%s is gone (code %d)", client.name, result.code)
            elif isinstance(result, Exception):
                raise result

    async def _send_all(self, client: _Client, position: int, is_outdated: bool) -> None:
        """Sends the feed after a position, without an end. Raises `_TooSlow`, and `WebSocketDisconnect`."""
        if is_outdated:
            message = "Older labels that decide nothing any more are not kept; the stream goes on with those that are."
            await client.send(info_frame("OutdatedCursor", message))
        while True:
            try:
                part = self._live.after(position)
            except Behind:
                client.check_pace()
                part = await self._page(position)
            if part is None:
                client.caught_up()
                await self._live.wait(position)
                continue
            for frame in part.frames:
                await client.send(frame.data)
            position = part.to
            await asyncio.sleep(0)  # nothing above need have waited, and others want their turn

    async def _page(self, position: int) -> Part:
        """The next part from the database, up to where the newest one in memory ends; waits while it is away."""
        read = partial(self._feed.read, position, PAGE, self._live.to)
        away = backoff.database_away()
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._readers, read)
            except (DatabaseError, OperatorError) as error:
                wait = away.next()
                log.warning("The label feed can't be read (%s). Next attempt in %.1f s.", error, wait)
                await asyncio.sleep(wait)


class _Client:
    """One client, while it is connected."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.socket = socket_of(websocket)
        self.name = _name(websocket)
        self._waited = 0.0
        self._caught_up_at: float | None = None

    async def send(self, frame: bytes) -> None:
        """Sends a frame once there is room for it. Raises `_TooSlow`, and `WebSocketDisconnect`."""
        if self.socket.is_full:
            began = time.monotonic()
            try:
                await asyncio.wait_for(self.socket.writable.wait(), backoff.LABELS_SEND_SECONDS)
            except asyncio.TimeoutError:
                raise _TooSlow(f"No label was taken in for {backoff.LABELS_SEND_SECONDS:g} s.") from None
            self._waited += time.monotonic() - began
        if not self.socket.is_open:
            raise WebSocketDisconnect(1006)
        await self._websocket.send_bytes(frame)

    def caught_up(self) -> None:
        """Notes that everything was sent."""
        self._waited = 0.0
        self._caught_up_at = time.monotonic()

    def check_pace(self) -> None:
        """Raises `_TooSlow` where the client had caught up, and is behind again because it did not take labels in."""
        if self._caught_up_at is not None and self._waited > (time.monotonic() - self._caught_up_at) / 2:
            raise _TooSlow("Labels come faster than they were taken in.")

    async def until_gone(self) -> None:
        """Takes in what the client sends, which means nothing, until it closes. Raises `WebSocketDisconnect`."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])

    def end(self, error: str, message: str) -> None:
        """Ends the stream with an error frame."""
        log.info("%s is ended: %s (%s)", self.name, error, message)
        self.socket.end_with(error_frame(error, message), POLICY_VIOLATION, error)


def _name(websocket: WebSocket) -> str:
    """A client in log lines."""
    return f"{websocket.client.host}:{websocket.client.port}" if websocket.client else "a client"
