"""A subscription to an event stream: a connection that is made again whenever it ends, in a thread of its own.

The consumer takes frames in the order in which they arrived. Over a reconnection nothing is lost and nothing repeated,
as long as the server still has what was missed. When the consumer is slow the buffer fills, then the socket is no
longer read, and TCP makes the server wait. Specifications: https://atproto.com/specs/event-stream and
https://atproto.com/specs/sync.

Memory is bounded by `buffer_bytes`, plus what one read of the socket may still add to a full buffer (the receive
window, at most `WINDOW_BYTES`, or one frame), plus the read buffer of the WebSocket client (about twice that).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import picows
from picows import WSCloseCode, WSProtocolError

from appview_pipeline import backoff as policies
from appview_pipeline.addresses import basic_authorization, split_relay
from appview_pipeline.backoff import FUTURE_CURSOR_SECONDS, Backoff
from appview_pipeline.network.connection import Connection, Received
from appview_pipeline.network.event_loop import SubscriptionLoop
from appview_pipeline.network.frame_buffer import FrameBuffer
from appview_pipeline.network.notices import Notice, Notices
from appview_pipeline.network.refusals import CONNECT_FAILURES, explain
from appview_pipeline.network.resume_point import ResumePoint
from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES, printable
from appview_pipeline.protocol.peek import COMMIT_HEADER

log = logging.getLogger(__name__)

WINDOW_BYTES = 4 * 2**20
"""Limit of the bytes that the kernel holds for us. A clamp on the TCP window rather than SO_RCVBUF, which would switch
off the kernel's own tuning and is capped at about 200 KiB on an ordinary Linux: too little to catch up over long
distances."""

_READ_BUFFER_BYTES = 256 * 1024

State = Literal["new", "connecting", "connected", "waiting", "future_cursor", "stopped"]


@dataclass(frozen=True)
class EventStream:
    """Which of the protocol's event streams. `method` is its XRPC method. Frames that begin with `usual_header` are
    known to be events without decoding them: the canonical header of the type that most frames have."""

    method: str
    usual_header: bytes


SUBSCRIBE_REPOS = EventStream("com.atproto.sync.subscribeRepos", COMMIT_HEADER)


@dataclass(frozen=True)
class SubscriptionStatus:
    """A snapshot. `cursor`: newest sequence number received. Bytes and frames are totals, `buffered_*` those that
    wait to be taken. Times are UNIX seconds. `last_error` stays after its cause has gone; `state` is the present.
    `hopeless`: while it waits, trying soon can't help (there is no such event stream, for example)."""

    state: State = "new"
    connected: bool = False
    connects: int = 0
    reconnects: int = 0
    attempts: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
    hopeless: bool = False
    retry_at: float | None = None
    cursor: int | None = None
    frames: int = 0
    bytes: int = 0
    last_frame_at: float | None = None
    buffered_frames: int = 0
    buffered_bytes: int = 0
    reading_paused: bool = False
    notices_dropped: int = 0


@dataclass(frozen=True)
class _End:
    """How an attempt or a connection ended. `name` is the error name of an error frame or close reason, `hopeless` that
    trying soon can't help, `held` the seconds that the connection lasted."""

    sentence: str
    name: str = ""
    hopeless: bool = False
    retry_after: float = 0.0
    held: float = 0.0


class Subscription:
    """A subscription to one server's event stream. One consumer thread may call `take` and `notices`.

    >>> with Subscription("wss://bsky.network", cursor=None) as subscription:
    ...     frames = subscription.take(5_000, timeout=0.5)

    `url` is the server (`wss://host`), `cursor` the last sequence number that is already done (None: newest events
    only, 0: all that the server has), `stream` the event stream. Seconds: `ping_seconds` between two pings,
    `pong_seconds` until a ping must be answered (any message counts), `idle_seconds` without any frame until the
    connection is given up (None: never; quiet servers are legal), `future_cursor_seconds` between two attempts with a
    cursor that the server says is in its future. `sequence_gap`: numbers that may be left out between two events; one
    that is farther off moves the cursor only with those that follow it. `setting` is the operator's name for `url`,
    which errors mention.
    `credentials`: `user:password` for a server that asks for them; no sentence shows them, nor those in `url`.
    """

    def __init__(
        self,
        url: str,
        cursor: int | None,
        buffer_bytes: int = 64_000_000,
        *,
        stream: EventStream = SUBSCRIBE_REPOS,
        credentials: str | None = None,
        setting: str = "APPVIEW_RELAY_URL",
        ping_seconds: float = 30.0,
        pong_seconds: float = 30.0,
        idle_seconds: float | None = None,
        connect_seconds: float = 20.0,
        future_cursor_seconds: float = FUTURE_CURSOR_SECONDS,
        window_bytes: int = WINDOW_BYTES,
        sequence_gap: int = 100,
        backoff: Backoff | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.url, in_url = split_relay(url)
        self._credentials = credentials or in_url
        self._headers = {"User-Agent": "appview-pipeline"}
        if self._credentials is not None:
            self._headers["Authorization"] = basic_authorization(self._credentials)
        self._method = stream.method
        self._setting = setting
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._idle_seconds = idle_seconds
        self._connect_seconds = connect_seconds
        self._future_cursor_seconds = future_cursor_seconds
        self._window_bytes = window_bytes
        self._backoff = backoff or policies.relay()
        self._ssl_context = ssl_context

        self._buffer = FrameBuffer(buffer_bytes, lambda: self._call(self._resume_reading))
        self._resume_point = ResumePoint(cursor, sequence_gap, self._buffer)
        self._notices = Notices()
        self._received = Received(stream.usual_header, self._buffer, self._resume_point, self._notices)
        self._status = SubscriptionStatus(cursor=cursor)  # written by the network's thread, but for the counts

        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._drained: asyncio.Event | None = None

    # For the consumer's thread.

    def start(self) -> None:
        """Begins to connect, in a daemon thread. Returns at once."""
        if self._thread is not None:
            raise RuntimeError("a subscription can be started once only")
        self._thread = threading.Thread(target=self._main, name="subscription", daemon=True)
        self._thread.start()

    def take(self, limit: int, timeout: float) -> list[bytes]:
        """The oldest frames, at most `limit`; waits up to `timeout` seconds for that many to be there.

        Returns sooner when the buffer is full or the subscription has stopped; what was received before `stop` can
        still be taken. Trouble of the network is never raised, see `status`. Raises `RuntimeError` where a defect of
        ours has ended the network's thread, once the frames before it have been taken.
        """
        frames = self._buffer.take(limit, timeout)
        if not frames and self._failure is not None:
            raise RuntimeError("the subscription's thread failed") from self._failure
        return frames

    def wake(self) -> None:
        """Makes a `take` that waits, or else the next one, return at once. May be called from any thread."""
        self._buffer.wake()

    def notices(self) -> list[Notice]:
        """What there was to say about the stream since the last call, oldest first."""
        return self._notices.take()

    @property
    def status(self) -> SubscriptionStatus:
        """How things are now."""
        buffer = self._buffer
        return replace(
            self._status,
            reconnects=max(0, self._status.connects - 1),
            cursor=self._resume_point.cursor,
            frames=buffer.received_frames,
            bytes=buffer.received_bytes,
            last_frame_at=self._received.last_frame_at,
            buffered_frames=len(buffer),
            buffered_bytes=buffer.weight,
            reading_paused=buffer.is_full,
            notices_dropped=self._notices.dropped,
        )

    def stop(self) -> None:
        """Closes the connection and ends the thread, within a second. May be called in any state and repeatedly."""
        self._stopping.set()
        self._buffer.close()
        if self._thread is None:
            self._status = replace(self._status, state="stopped")
            return
        for _ in range(25):
            # Repeated, since asyncio before Python 3.12 loses a cancellation that meets the end of a `wait_for`.
            self._call(self._cancel)
            self._thread.join(0.2)
            if not self._thread.is_alive():
                return
        raise RuntimeError("the subscription's thread does not end")

    def __enter__(self) -> Subscription:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, function: Callable[[], None]) -> None:
        """Runs `function` in the network's thread soon; does nothing where that thread has not begun or has ended."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not loop.is_closed():
                raise

    # For the network's thread.

    def _main(self) -> None:
        loop = SubscriptionLoop(lambda: self._buffer.received_bytes)
        try:
            loop.set_exception_handler(_log_loop_trouble)
            self._drained = asyncio.Event()
            self._task = loop.create_task(self._run())
            self._loop = loop
            if self._stopping.is_set():  # `stop` was called before there was a loop to cancel the task in
                self._task.cancel()
            try:
                loop.run_until_complete(self._task)
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    raise
        except BaseException as error:
            log.exception("The subscription's thread failed.")
            self._failure = error
        finally:
            self._set(state="stopped", connected=False, retry_at=None)
            loop.finish()
            self._buffer.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        assert self._drained is not None
        while True:
            # Connecting while nothing can be taken in would only make the server drop us for being slow.
            if self._buffer.is_full:
                self._drained.clear()
                await self._drained.wait()
            before = self._resume_point.cursor
            end = await self._connect_once()
            self._backoff.connected_for(end.held, progressed=_is_beyond(self._resume_point.cursor, before))
            state: State = "waiting"
            if end.name == "FutureCursor":
                state, wait = "future_cursor", self._future_cursor_seconds
            elif end.hopeless:
                wait = self._backoff.longest_wait()
            else:
                wait = self._backoff.next() + end.retry_after
            now = time.time()
            self._set(
                state=state,
                connected=False,
                last_error=end.sentence,
                last_error_at=now,
                hopeless=end.hopeless,
                retry_at=now + wait,
            )
            log.warning("%s Next attempt in %.1f s.", end.sentence, wait, extra={"url": self.url})
            await asyncio.sleep(wait)

    def _set(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)

    async def _connect_once(self) -> _End:
        """Connects, and returns when the connection has ended or could not be made."""
        cursor = self._resume_point.cursor
        self._set(state="connecting", attempts=self._status.attempts + 1, hopeless=False, retry_at=None)
        ended = asyncio.get_running_loop().create_future()
        connection = Connection(self.url, self._received, ended, self._connected)
        address = f"{self.url}/xrpc/{self._method}" + ("" if cursor is None else f"?cursor={cursor}")
        try:
            _, listener = await asyncio.wait_for(
                picows.ws_connect(
                    lambda _request, _response: connection,
                    address,
                    ssl_context=self._ssl_context,
                    websocket_handshake_timeout=self._connect_seconds,
                    logger_name=_picows_log,
                    max_frame_size=MAX_FRAME_BYTES,
                    extra_headers=self._headers,
                    max_redirects=0,
                    read_buffer_init_size=_READ_BUFFER_BYTES,
                    happy_eyeballs_delay=0.25,
                ),
                self._connect_seconds,
            )
        except CONNECT_FAILURES as error:
            refusal = explain(error, self.url, self._setting)
            sentence = self._without_credentials(refusal.sentence)
            return _End(sentence, hopeless=refusal.hopeless, retry_after=refusal.retry_after)
        if listener is None:  # the client's way of saying that the server hung up without an answer
            return _End(f"{self.url} closed the connection without an answer: check {self._setting}.")
        self._connection = connection
        try:
            await self._watch(connection)
        finally:
            self._connection = None
            connection.close("")
        return await self._end_of(connection)

    def _connected(self, connection: Connection) -> None:
        assert connection.transport is not None
        self._connection = connection
        sock = connection.transport.underlying_transport.get_extra_info("socket")
        if hasattr(socket, "TCP_WINDOW_CLAMP"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, self._window_bytes)
        self._set(state="connected", connected=True, connects=self._status.connects + 1)
        cursor = connection.cursor
        log.info(
            "Connected to %s %s.",
            self.url,
            "at its newest event" if cursor is None else f"after cursor {cursor}",
            extra={"url": self.url, "cursor": cursor},
        )

    def _without_credentials(self, sentence: str) -> str:
        """A sentence that may quote the server's answer, which may quote the request."""
        if self._credentials is not None:
            for secret in (self._headers["Authorization"], self._credentials, self._credentials.partition(":")[2]):
                sentence = sentence.replace(secret, "***") if secret else sentence
        return sentence

    async def _watch(self, connection: Connection) -> None:
        """Pings and checks the time limits until the connection has ended. Time in which we don't read counts for
        neither."""
        timers = [self._ping_seconds, self._pong_seconds, self._idle_seconds or self._ping_seconds, 4.0]
        tick = min(timers) / 4
        frames, pongs = connection.frames, connection.pongs
        heard_frame = pinged = time.monotonic()
        unanswered = False
        while not connection.ended.done():
            await asyncio.wait([connection.ended], timeout=tick)
            now = time.monotonic()
            is_full = self._buffer.is_full
            if connection.frames != frames or connection.pongs != pongs or is_full:
                unanswered = False
            if connection.frames != frames or is_full:
                heard_frame = now
            frames, pongs = connection.frames, connection.pongs
            if unanswered and now - pinged >= self._pong_seconds:
                connection.close(f"{self.url} did not answer a ping within {self._pong_seconds:g} s.")
            elif self._idle_seconds is not None and now - heard_frame >= self._idle_seconds:
                connection.close(f"{self.url} sent no event for {self._idle_seconds:g} s.")
            elif not unanswered and now - pinged >= self._ping_seconds:
                connection.ping()
                pinged, unanswered = now, True

    async def _end_of(self, connection: Connection) -> _End:
        """Why a connection ended; moves the point to resume from."""
        connection.settle()
        sentence, name = connection.reason, ""
        if connection.error is not None:
            name, message = connection.error.name, connection.error.message
            sentence = f"{self.url} ended the stream: {name}" + (f" ({message})." if message else ".")
        transport = connection.transport
        assert transport is not None
        try:
            await transport.wait_disconnected()
        except WSProtocolError as error:
            sentence = sentence or f"{self.url} broke the WebSocket protocol ({printable(str(error))})."
            if error.code == WSCloseCode.MESSAGE_TOO_BIG:
                sentence = self._skip_oversized(connection)
        handshake = transport.close_handshake
        if not sentence and handshake is not None and handshake.recv is not None:
            reason = printable(handshake.recv.reason)
            if reason.startswith("FutureCursor"):  # in case that the error frame before it was lost
                name = "FutureCursor"
            code = int(handshake.recv.code)  # type: ignore[call-overload]
            sentence = f"{self.url} closed the connection (code {code or 1005}{', ' + reason if reason else ''})."
        if name == "FutureCursor":
            sentence = (
                f"{self.url} says that cursor {connection.cursor} lies in its future: the cursor came from another "
                f"relay, or this one was reset; check {self._setting} or reset the stored cursor of this relay."
            )
        sentence = sentence or f"{self.url} dropped the connection."
        return _End(sentence, name, held=time.monotonic() - connection.since)

    def _skip_oversized(self, connection: Connection) -> str:
        """Skips an event that the server would otherwise send again for ever, once it came first in a connection.

        Before that the connection resumes from the event before it, so that its neighbours come through.
        """
        what = f"{self.url} sent a message of more than {MAX_FRAME_BYTES:,} bytes"
        cursor = self._resume_point.cursor
        if cursor is None or cursor != connection.cursor:
            return f"{what}; resuming from the event before it."
        message = f"{what}; the event after {cursor} is skipped."
        self._notices.add(Notice(kind="oversized", name="", message=message, cursor=cursor))
        self._resume_point.skip_event()
        return f"{what} again; the event after {cursor} is skipped."

    def _resume_reading(self) -> None:
        if not self._buffer.reopen():
            return
        if self._connection is not None:
            self._connection.resume_reading()
        if self._drained is not None:
            self._drained.set()


def _is_beyond(cursor: int | None, before: int | None) -> bool:
    return cursor is not None and (before is None or cursor > before)


def _log_loop_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs a report of the event loop in one line, without its traceback. A transport's error also shows as the end of
    its connection."""
    error = context.get("exception")
    log.log(logging.DEBUG if isinstance(error, OSError) else logging.WARNING, "%s: %r", context.get("message"), error)


_picows_log = logging.getLogger(f"{__name__}.picows")
_picows_log.setLevel(logging.CRITICAL)  # what it reports as errors are our sentences already
