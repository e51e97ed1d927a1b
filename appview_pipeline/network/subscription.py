"""A subscription to an event stream: a connection that is made again whenever it ends, in the background.

The consumer takes frames in the order in which they arrived. Over a reconnection nothing is lost and nothing repeated,
as long as the server still has what was missed. When the consumer is slow the buffer fills, then the socket is no
longer read, and TCP makes the server wait. Specifications: https://atproto.com/specs/event-stream and
https://atproto.com/specs/sync.

Memory is bounded by `buffer_bytes`, plus what one read of the socket may still add to a full buffer (the receive
window, at most `WINDOW_BYTES`, or one frame), plus the read buffer of the WebSocket client (about twice that).

For a server that a stranger named, as a DID document names a labeler's, give `hosts`: then each connection goes to
addresses that were looked up and checked for it (`strangers.py`; docs/fetching.md has the rules).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import picows
from picows import WSCloseCode, WSProtocolError

from appview_pipeline import backoff as policies
from appview_pipeline.addresses import basic_authorization, split_relay
from appview_pipeline.backoff import FUTURE_CURSOR_SECONDS, Backoff
from appview_pipeline.network.connection import Connection, Received
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.frame_buffer import FrameBuffer
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.loop_thread import LoopThread
from appview_pipeline.network.notices import Notice, Notices
from appview_pipeline.network.refusals import CONNECT_FAILURES, explain
from appview_pipeline.network.resume_point import ResumePoint
from appview_pipeline.network.sequence import LeapingNumbers, StreamNumbers
from appview_pipeline.network.strangers import connected_socket, strangers_context
from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES, printable
from appview_pipeline.protocol.label_frames import LABELS_HEADER
from appview_pipeline.protocol.peek import COMMIT_HEADER

log = logging.getLogger(__name__)

WINDOW_BYTES = 4 * 2**20
"""Limit of the bytes that the kernel holds for us. A clamp on the TCP window rather than SO_RCVBUF, which would switch
off the kernel's own tuning and is capped at about 200 KiB on an ordinary Linux: too little to catch up over long
distances."""

_READ_BUFFER_BYTES = 256 * 1024
_SMALL_READ_BUFFER_BYTES = 16 * 1024

State = Literal["new", "connecting", "connected", "waiting", "future_cursor", "stopped"]


@dataclass(frozen=True)
class EventStream:
    """Which of the protocol's event streams. `method` is its XRPC method. Frames that begin with `usual_header` are
    known to be events without decoding them: the canonical header of the type that most frames have. `leaps`: numbers
    that are left out are no sign of missing events, and no doubt either (`sequence.LeapingNumbers`). `future_cursor`:
    why a server may say that a cursor is in its future, and what to do."""

    method: str
    usual_header: bytes
    leaps: bool = False
    future_cursor: str = (
        "the cursor came from another relay, or this one was reset; check {setting} or reset the stored cursor of this "
        "relay."
    )


SUBSCRIBE_REPOS = EventStream("com.atproto.sync.subscribeRepos", COMMIT_HEADER)
SUBSCRIBE_LABELS = EventStream(
    "com.atproto.label.subscribeLabels",
    LABELS_HEADER,
    leaps=True,
    future_cursor="the labeler was set up anew, or an older state of it was restored; have its labels read from the "
    "beginning.",
)


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
    that is farther off moves the cursor only with those that follow it. `setting` is what the operator knows as the
    place of `url`; errors mention it.
    `credentials`: `user:password` for a server that asks for them; no sentence shows them, nor those in `url`.
    `hosts`: a stranger named the server; the rules by which it may be connected to. `loop`: a thread that is shared
    with other subscriptions, and outlives this one; None: one of its own. `news`: set with every frame, notice and
    change of state, for a consumer of several subscriptions, who clears it.
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
        hosts: Hosts | None = None,
        loop: LoopThread | None = None,
        news: threading.Event | None = None,
    ) -> None:
        self.url, in_url = split_relay(url)
        self._credentials = credentials or in_url
        self._headers = {"User-Agent": "appview-pipeline"}
        if self._credentials is not None:
            self._headers["Authorization"] = basic_authorization(self._credentials)
        self._stream = stream
        self._setting = setting
        self._hosts = hosts
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._idle_seconds = idle_seconds
        self._connect_seconds = connect_seconds
        self._future_cursor_seconds = future_cursor_seconds
        self._window_bytes = window_bytes
        self._backoff = backoff or policies.relay()
        self._ssl_context = ssl_context

        self._loop = loop or LoopThread("subscription")
        self._owns_loop = loop is None
        self._news = news
        self._buffer = FrameBuffer(buffer_bytes, lambda: self._loop.call(self._resume_reading), news)
        numbers = LeapingNumbers(cursor) if stream.leaps else StreamNumbers(cursor, sequence_gap)
        self._resume_point = ResumePoint(cursor, numbers, self._buffer)
        self._notices = Notices(news)
        self._received = Received(
            usual_header=stream.usual_header,
            buffer=self._buffer,
            resume_point=self._resume_point,
            notices=self._notices,
            leaps=stream.leaps,
            is_strangers=hosts is not None,
        )
        self._status = SubscriptionStatus(cursor=cursor)  # written by the network's thread, but for the counts

        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._cancel: Callable[[], None] | None = None
        self._connection: Connection | None = None
        self._drained: asyncio.Event | None = None

    # For the consumer's thread.

    def start(self) -> None:
        """Begins to connect, in the background. Returns at once."""
        if self._cancel is not None:
            raise RuntimeError("a subscription can be started once only")
        self._cancel = self._loop.begin(self._run, lambda: self._buffer.received_bytes, self._finish)

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

    def begin_stop(self) -> None:
        """Begins to close the connection; `stop` waits for its end. Who stops many calls this of all of them first."""
        self._stopping.set()
        self._buffer.close()
        if self._cancel is not None:
            self._cancel()

    def stop(self) -> None:
        """Closes the connection and ends the thread, within a second. May be called in any state and repeatedly."""
        self.begin_stop()
        if self._cancel is None:
            self._status = replace(self._status, state="stopped")
            return
        for _ in range(25):
            if self._ended.wait(0.2):
                break
            # Repeated, since asyncio before Python 3.12 loses a cancellation that meets the end of a `wait_for`.
            self._cancel()
        else:
            raise RuntimeError("the subscription does not end")
        if self._owns_loop:
            self._loop.stop()

    def __enter__(self) -> Subscription:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # For the network's thread.

    def _finish(self, error: BaseException | None) -> None:
        if error is not None and not (self._stopping.is_set() and isinstance(error, asyncio.CancelledError)):
            log.error("The subscription's thread failed.", exc_info=error)
            self._failure = error
        self._set(state="stopped", connected=False, retry_at=None)
        self._buffer.close()
        self._ended.set()

    async def _run(self) -> None:
        self._drained = asyncio.Event()
        while True:
            # Connecting while nothing can be taken in would only make the server drop us for being slow.
            if self._buffer.is_full:
                self._drained.clear()
                await self._drained.wait()
            before = self._resume_point.cursor
            end = await self._attempt()
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
        if self._news is not None:
            self._news.set()

    async def _attempt(self) -> _End:
        """Connects, and returns when the connection has ended. A defect of ours that a stranger can trigger ends their
        own stream, and is logged; it must not end those of all others, which share a process."""
        try:
            return await self._connect_once()
        except Exception as error:
            if self._hosts is None:
                raise
            log.exception("The stream of %s could not be read.", self.url)
            return _End(f"{self.url} could not be read ({printable(repr(error))}).", hopeless=True)

    async def _connect_once(self) -> _End:
        """Connects, and returns when the connection has ended or could not be made."""
        cursor = self._resume_point.cursor
        self._set(state="connecting", attempts=self._status.attempts + 1, hopeless=False, retry_at=None)
        ended = asyncio.get_running_loop().create_future()
        connection = Connection(self.url, self._received, ended, self._connected)
        address = f"{self.url}/xrpc/{self._stream.method}" + ("" if cursor is None else f"?cursor={cursor}")
        try:
            _, listener = await asyncio.wait_for(self._connect(connection, address), self._connect_seconds)
        except FetchError as error:
            return _End(f"{error}: check {self._setting}.", hopeless=error.kind in ("url", "refused address"))
        except CONNECT_FAILURES as error:
            refusal = explain(error, self.url, self._setting, is_strangers=self._hosts is not None)
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

    async def _connect(self, connection: Connection, address: str) -> tuple[Any, Any]:
        """The transport and the listener of a new connection; the latter is None where the server hung up."""
        connect = partial(
            picows.ws_connect,
            lambda _request, _response: connection,
            address,
            websocket_handshake_timeout=self._connect_seconds,
            enable_auto_pong=False,  # the connection answers, and limits them
            logger_name=_picows_log,
            max_frame_size=MAX_FRAME_BYTES,
            extra_headers=self._headers,
            max_redirects=0,
        )
        if self._hosts is None:
            return await connect(
                ssl_context=self._ssl_context, read_buffer_init_size=_READ_BUFFER_BYTES, happy_eyeballs_delay=0.25
            )
        context = self._ssl_context or (strangers_context() if self.url.startswith("wss:") else None)
        sock = await connected_socket(self.url, self._hosts, self._connect_seconds)
        try:
            return await connect(
                ssl_context=context, read_buffer_init_size=_SMALL_READ_BUFFER_BYTES, socket_factory=lambda _: sock
            )
        except BaseException:
            with suppress(OSError):  # where it is open still, its transport sees its end, and closes it
                sock.shutdown(socket.SHUT_RDWR)
            raise

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
            connection.allow_others()
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
        sentence, name, hopeless = connection.reason, "", False
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
                sentence, hopeless = self._skip_oversized(connection)
        handshake = transport.close_handshake
        if not sentence and handshake is not None and handshake.recv is not None:
            reason = printable(handshake.recv.reason)
            if reason.startswith("FutureCursor"):  # in case that the error frame before it was lost
                name = "FutureCursor"
            code = int(handshake.recv.code)  # type: ignore[call-overload]
            sentence = f"{self.url} closed the connection (code {code or 1005}{', ' + reason if reason else ''})."
        if name == "FutureCursor":
            why = self._stream.future_cursor.format(setting=self._setting)
            sentence = f"{self.url} says that cursor {connection.cursor} lies in its future: {why}"
        sentence = sentence or f"{self.url} dropped the connection."
        return _End(sentence, name, hopeless=hopeless, held=time.monotonic() - connection.since)

    def _skip_oversized(self, connection: Connection) -> tuple[str, bool]:
        """Skips an event that the server would otherwise send again for ever, once it came first in a connection.

        Before that the connection resumes from the event before it, so that its neighbours come through. Where numbers
        leap nobody knows which one to skip to: then trying soon can't help (the second value).
        """
        what = f"{self.url} sent a message of more than {MAX_FRAME_BYTES:,} bytes"
        cursor = self._resume_point.cursor
        if cursor is None or cursor != connection.cursor:
            return f"{what}; resuming from the event before it.", False
        if self._stream.leaps:
            return f"{what} again, the first after {cursor}, and can't be read past it.", True
        message = f"{what}; the event after {cursor} is skipped."
        self._notices.add(Notice(kind="oversized", name="", message=message, cursor=cursor))
        self._resume_point.skip_event()
        return f"{what} again; the event after {cursor} is skipped.", False

    def _resume_reading(self) -> None:
        if not self._buffer.reopen():
            return
        if self._connection is not None:
            self._connection.resume_reading()
        if self._drained is not None:
            self._drained.set()


def _is_beyond(cursor: int | None, before: int | None) -> bool:
    return cursor is not None and (before is None or cursor > before)


_picows_log = logging.getLogger(f"{__name__}.picows")
_picows_log.setLevel(logging.CRITICAL)  # what it reports as errors are our sentences already
