"""The subscription to an event stream: a WebSocket client in a thread of its own, and a bounded buffer of frames.

The consumer takes frames in the order in which they arrived; over a reconnection nothing is lost and nothing repeated,
as long as the server still has what was missed. When the consumer is slow the buffer fills, then the socket is no
longer read, and TCP makes the server wait. Specifications: https://atproto.com/specs/event-stream and
https://atproto.com/specs/sync.

Memory is bounded by `buffer_bytes`, plus what one read of the socket may still add to a full buffer (the receive
window, at most `WINDOW_BYTES`, or one frame), plus the read buffer of the WebSocket client (about twice that).
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import picows
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport

from appview_pipeline import backoff as policies
from appview_pipeline.addresses import basic_authorization, split_relay
from appview_pipeline.backoff import Backoff
from appview_pipeline.network.refusals import CONNECT_FAILURES, explain
from appview_pipeline.network.sequence import CONFIRMING, Line
from appview_pipeline.protocol.peek import COMMIT_HEADER, MAX_FRAME_BYTES, Control, control_of, printable, seq_of

log = logging.getLogger(__name__)

SUBSCRIBE_REPOS = "com.atproto.sync.subscribeRepos"

WINDOW_BYTES = 4 * 2**20
"""Most bytes that the kernel holds for us. A clamp on the TCP window rather than SO_RCVBUF, which would switch off the
kernel's own tuning and is capped at about 200 KiB on an ordinary Linux: too little to catch up over long distances."""

MAX_NOTICES = 1_000
"""Notices kept until the consumer collects them; the oldest are dropped beyond it, and counted."""

GATHER_SECONDS = 0.02
CALM_BYTES = 8_000_000
"""How long frames may wait in the kernel so that several are received at once; only after a second that brought less
than so many bytes, which is three times the network's usual pace."""

_FRAME_OVERHEAD = 64  # what a frame costs beside its bytes: a flood of tiny frames must fill the buffer too
_READ_BUFFER_BYTES = 256 * 1024
_BINARY, _TEXT, _CONTINUATION, _CLOSE = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION, WSMsgType.CLOSE

State = Literal["new", "connecting", "connected", "waiting", "future_cursor", "stopped"]

NoticeKind = Literal["info", "error", "gap", "went_back", "oversized", "text"]
"""`info` and `error`: the server said so (`frame` is its frame). `gap`: between `cursor` and `first_seq` events are
missing. `went_back`: the server continued before `cursor`, as a relay does that was reset. `oversized`: the event
after `cursor` was larger than the protocol allows and has been passed over. `text`: the server sent text (ignored)."""


@dataclass(frozen=True)
class Notice:
    """Something about the stream, not in it. `cursor` is what the connection had resumed from, `at` is UNIX time."""

    kind: NoticeKind
    name: str
    message: str
    cursor: int | None
    first_seq: int | None = None
    frame: bytes = b""
    at: float = 0.0


@dataclass(frozen=True)
class SubscriptionStatus:
    """A snapshot. `cursor`: newest sequence number received. Bytes and frames are totals, `buffered_*` what waits to be
    taken. Times are UNIX seconds. `last_error` stays after its cause has gone; `state` tells how things are now."""

    state: State = "new"
    connected: bool = False
    connects: int = 0
    reconnects: int = 0
    attempts: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
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
class _Ended:
    """How an attempt or a connection ended. `name` is the error name of an error frame or close reason."""

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
    only, 0: all that the server has). `method` is the XRPC method. Seconds: `ping_seconds` between two pings,
    `pong_seconds` until a ping must be answered (any message counts), `idle_seconds` without any frame until the
    connection is given up (None: never; quiet servers are legal), `future_cursor_seconds` between two attempts with a
    cursor that the server says is in its future. `sequence_gap`: numbers that may be left out between two events; one
    that is farther off moves the cursor only with those that follow it. `setting` is what an operator sets `url` with,
    for sentences.
    `credentials`: `user:password` for a server that asks for them; no sentence shows them, nor those in `url`.
    """

    def __init__(
        self,
        url: str,
        cursor: int | None,
        buffer_bytes: int = 64_000_000,
        *,
        method: str = SUBSCRIBE_REPOS,
        credentials: str | None = None,
        setting: str = "APPVIEW_RELAY_URL",
        ping_seconds: float = 30.0,
        pong_seconds: float = 30.0,
        idle_seconds: float | None = None,
        connect_seconds: float = 20.0,
        future_cursor_seconds: float = 300.0,
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
        self._method = method
        self._setting = setting
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._idle_seconds = idle_seconds
        self._connect_seconds = connect_seconds
        self._future_cursor_seconds = future_cursor_seconds
        self._window_bytes = window_bytes
        self._backoff = backoff or policies.relay()
        self._ssl_context = ssl_context
        self._high = buffer_bytes
        self._low = buffer_bytes // 2

        # Between the two threads there is no lock. The side that writes stands behind each; whoever waits is woken
        # after the write that it waits for, and looks again after having said what it waits for.
        self._queue: deque[bytes] = deque()  # appended to by the network, taken from by the consumer
        self._received: _GatheringSelector  # network, made with its loop
        self._weight_in = 0  # network
        self._weight_out = 0  # consumer
        self._wanted = 1  # both: how many frames the consumer waits for; reset by the network before it wakes it
        self._ready = threading.Event()
        self._woken = False  # set by whoever calls `wake`, reset by the consumer
        self._notices: deque[Notice] = deque()
        self._status = SubscriptionStatus(cursor=cursor)  # network, but for the counters below
        self._frames = 0
        self._bytes = 0
        self._last_frame_at: float | None = None
        self._cursor = cursor
        self._line = Line(cursor, sequence_gap)
        self._paused = False
        self._notices_dropped = 0

        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._link: _Link | None = None
        self._drained: asyncio.Event | None = None

    # For the consumer's thread.

    def start(self) -> None:
        """Begins to connect, in a daemon thread. Returns at once."""
        if self._thread is not None:
            raise RuntimeError("a subscription can be started once only")
        self._thread = threading.Thread(target=self._main, name="subscription", daemon=True)
        self._thread.start()

    def take(self, max_frames: int, timeout: float) -> list[bytes]:
        """The oldest frames, at most `max_frames`; waits up to `timeout` seconds for that many to be there.

        Returns sooner when the buffer is full or the subscription has stopped; what was received before `stop` can
        still be taken. Trouble of the network is never raised, see `status`. Raises `RuntimeError` where a defect of
        ours has ended the network's thread, once the frames before it have been taken.
        """
        queue = self._queue
        deadline = time.monotonic() + timeout
        while True:
            self._ready.clear()
            self._wanted = max_frames
            # Looked at after saying what is wanted: a frame that comes later than this look sets `_ready`.
            if len(queue) >= max_frames or (self._paused and queue) or self._woken or self._ended():
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._ready.wait(remaining)
        self._woken = False
        popleft = queue.popleft
        frames = [popleft() for _ in range(min(max_frames, len(queue)))]
        self._weight_out += sum(map(len, frames)) + _FRAME_OVERHEAD * len(frames)
        if self._paused and self._weight_in - self._weight_out <= self._low:
            self._call(self._resume_reading)
        if not frames and self._failure is not None:
            raise RuntimeError("the subscription's thread failed") from self._failure
        return frames

    def wake(self) -> None:
        """Makes a `take` that waits, or else the next one, return at once. May be called from any thread."""
        self._woken = True
        self._ready.set()

    def notices(self) -> list[Notice]:
        """What the stream said about itself since the last call, oldest first."""
        notices = self._notices
        return [notices.popleft() for _ in range(len(notices))]

    @property
    def status(self) -> SubscriptionStatus:
        """How things are now."""
        return replace(
            self._status,
            reconnects=max(0, self._status.connects - 1),
            cursor=self._cursor,
            frames=self._frames,
            bytes=self._bytes,
            last_frame_at=self._last_frame_at,
            buffered_frames=len(self._queue),
            buffered_bytes=max(0, self._weight_in - self._weight_out),
            reading_paused=self._paused,
            notices_dropped=self._notices_dropped,
        )

    def stop(self) -> None:
        """Closes the connection and ends the thread, within a second. May be called in any state and repeatedly."""
        self._stopping.set()
        self._ready.set()
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

    def _ended(self) -> bool:
        return self._stopping.is_set() or self._failure is not None

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
        loop = _Loop()
        self._received = loop.gathering
        try:
            loop.set_exception_handler(_log_loop_trouble)
            self._drained = asyncio.Event()
            self._task = loop.create_task(self._run())
            self._loop = loop
            if self._stopping.is_set():  # it was set before there was a loop to be told through
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
            self._ready.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            # Connecting while nothing can be taken in would only make the server drop us for being slow.
            if self._paused and self._drained is not None:
                await self._drained.wait()
            before = self._cursor
            ended = await self._connect_once()
            self._backoff.connected_for(ended.held, progressed=_is_beyond(self._cursor, before))
            state: State = "waiting"
            if ended.name == "FutureCursor":
                state, wait = "future_cursor", self._future_cursor_seconds
            elif ended.hopeless:
                wait = self._backoff.longest_wait()
            else:
                wait = self._backoff.next() + ended.retry_after
            now = time.time()
            self._set(state=state, connected=False, last_error=ended.sentence, last_error_at=now, retry_at=now + wait)
            log.warning("%s Next attempt in %.1f s.", ended.sentence, wait, extra={"url": self.url})
            await asyncio.sleep(wait)

    def _set(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)

    def _notice(self, notice: Notice) -> None:
        if len(self._notices) >= MAX_NOTICES:
            self._notices.popleft()
            self._notices_dropped += 1
        self._notices.append(replace(notice, at=time.time()))

    async def _connect_once(self) -> _Ended:
        cursor = self._cursor
        self._set(state="connecting", attempts=self._status.attempts + 1, retry_at=None)
        link = _Link(self, cursor, asyncio.get_running_loop().create_future())
        address = f"{self.url}/xrpc/{self._method}" + ("" if cursor is None else f"?cursor={cursor}")
        try:
            _, listener = await asyncio.wait_for(
                picows.ws_connect(
                    lambda _request, _response: link,
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
            sentence = refusal.sentence
            if self._credentials is not None:  # the answer may repeat the request
                for secret in (self._headers["Authorization"], self._credentials, self._credentials.partition(":")[2]):
                    sentence = sentence.replace(secret, "***") if secret else sentence
            return _Ended(sentence, hopeless=refusal.hopeless, retry_after=refusal.retry_after)
        if listener is None:  # the client's way of saying that the server hung up without an answer
            return _Ended(f"{self.url} closed the connection without an answer: check {self._setting}.")
        self._link = link
        try:
            await self._watch(link)
        finally:
            self._link = None
            link.close("")
        return await self._after(link)

    async def _watch(self, link: _Link) -> None:
        """Until the connection has ended: pings and time-outs, which time in which we don't read doesn't count for."""
        timers = [self._ping_seconds, self._pong_seconds, self._idle_seconds or self._ping_seconds, 4.0]
        tick = min(timers) / 4
        frames, pongs = link.frames, link.pongs
        heard_frame = pinged = time.monotonic()
        unanswered = False
        while not link.gone.done():
            await asyncio.wait([link.gone], timeout=tick)
            now = time.monotonic()
            if link.frames != frames or link.pongs != pongs or self._paused:
                unanswered = False
            if link.frames != frames or self._paused:
                heard_frame = now
            frames, pongs = link.frames, link.pongs
            if unanswered and now - pinged >= self._pong_seconds:
                link.close(f"{self.url} did not answer a ping within {self._pong_seconds:g} s.")
            elif self._idle_seconds is not None and now - heard_frame >= self._idle_seconds:
                link.close(f"{self.url} sent no event for {self._idle_seconds:g} s.")
            elif not unanswered and now - pinged >= self._ping_seconds:
                link.ping()
                pinged, unanswered = now, True

    async def _after(self, link: _Link) -> _Ended:
        """Why `link` ended, and where to go on."""
        link.settle()
        sentence, name = link.reason, ""
        if link.error is not None:
            name = link.error.name
            sentence = f"{self.url} ended the stream: {name}" + (
                f" ({link.error.message})." if link.error.message else "."
            )
        transport = link.transport
        assert transport is not None
        try:
            await transport.wait_disconnected()
        except WSProtocolError as error:
            sentence = sentence or f"{self.url} broke the WebSocket protocol ({printable(str(error))})."
            if error.code == WSCloseCode.MESSAGE_TOO_BIG:
                sentence = self._oversized(link)
        handshake = transport.close_handshake
        if not sentence and handshake is not None and handshake.recv is not None:
            reason = printable(handshake.recv.reason)
            if reason.startswith("FutureCursor"):  # in case that the error frame before it was lost
                name = "FutureCursor"
            code = int(handshake.recv.code)  # type: ignore[call-overload]
            sentence = f"{self.url} closed the connection (code {code or 1005}{', ' + reason if reason else ''})."
        if name == "FutureCursor":
            sentence = (
                f"{self.url} says that cursor {link.cursor} lies in its future: the cursor came from another relay, or "
                f"this one was reset; check {self._setting} or reset the stored cursor of this relay."
            )
        sentence = sentence or f"{self.url} dropped the connection."
        return _Ended(sentence, name, held=time.monotonic() - link.since)

    def _oversized(self, link: _Link) -> str:
        """Steps over an event that the server would otherwise send again for ever; its neighbours must come through."""
        what = f"{self.url} sent a message of more than {MAX_FRAME_BYTES:,} bytes"
        if self._cursor is None or self._cursor != link.cursor:
            return f"{what}; resuming from the event before it."
        self._notice(Notice("oversized", "", f"{what}; the event after {self._cursor} is passed over.", self._cursor))
        self._cursor += 1
        if self._line.main is not None:
            self._line.advance(self._cursor, 1)
        return f"{what} again; the event after {self._cursor - 1} is passed over."

    def _reach(self, seq: int, events: int) -> None:
        """Takes the number of the last of `events` frames into account; where it is doubtful, a few before it, too."""
        line, now = self._line, time.monotonic()
        if line.see(seq, now, events) == "doubtful":
            for back in range(2, min(events, CONFIRMING) + 1):
                try:
                    before = seq_of(self._queue[-back])
                except IndexError:  # the consumer has taken it
                    break
                if before is not None and line.follows(before, events):
                    line.see(before, now, events)
                    break
        self._cursor = line.reached

    def _resume_reading(self) -> None:
        if self._weight_in - self._weight_out > self._low:
            return
        self._paused = False
        if self._link is not None and self._link.transport is not None:
            self._link.transport.underlying_transport.resume_reading()
        if self._drained is not None:
            self._drained.set()

    def _pause_reading(self, transport: WSTransport) -> None:
        self._paused = True
        if self._drained is not None:
            self._drained.clear()
        transport.underlying_transport.pause_reading()
        self._ready.set()


class _Link(WSListener):
    """One connection: takes messages off the socket into the subscription's buffer."""

    def __init__(self, subscription: Subscription, cursor: int | None, gone: asyncio.Future[None]) -> None:
        self.transport: WSTransport | None = None
        self.cursor = cursor
        self.gone = gone
        self.since = time.monotonic()
        self.frames = 0
        self.pongs = 0
        self.error: Control | None = None
        self.reason = ""
        self._subscription = subscription
        self._closing = False
        self._settled = 0  # frames of which the newest's sequence number has been looked at
        self._newest: bytes | None = None  # the last frame received, while its sequence number has not been looked at
        self._first = True  # no frame with a sequence number has come yet
        self._outdated = False
        self._text_seen = False
        self._fragments: bytearray | None = None
        self._fragments_are_text = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        subscription = self._subscription
        self.transport = transport
        subscription._link = self
        self.since = time.monotonic()
        sock = transport.underlying_transport.get_extra_info("socket")
        if hasattr(socket, "TCP_WINDOW_CLAMP"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, subscription._window_bytes)
        subscription._set(state="connected", connected=True, connects=subscription._status.connects + 1)
        log.info(
            "Connected to %s %s.",
            subscription.url,
            "at its newest event" if self.cursor is None else f"after cursor {self.cursor}",
            extra={"url": subscription.url, "cursor": self.cursor},
        )

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._closing:
            return
        if frame.msg_type == _BINARY and frame.fin and self._fragments is None and not frame.rsv1:
            payload = frame.get_payload_as_bytes()
        else:
            whole = self._uncommon(frame)
            if whole is None:
                return
            payload = whole
        if (self._first or not payload.startswith(COMMIT_HEADER)) and not self._is_event(payload):
            return
        size = len(payload)
        if size > MAX_FRAME_BYTES:  # the client's parser goes on for some milliseconds after having refused it
            self._closing = True
            return
        self.frames += 1
        subscription = self._subscription
        queue = subscription._queue
        queue.append(payload)
        subscription._frames += 1
        subscription._bytes += size
        subscription._weight_in += size + _FRAME_OVERHEAD
        subscription._received.bytes += size
        if frame.last_in_buffer:
            # Once a read, not once a frame: in between, the last frame is remembered in case that the connection ends.
            self._newest = payload
            self.settle()
            subscription._last_frame_at = time.time()
        else:
            self._newest = payload
        if len(queue) >= subscription._wanted:
            subscription._wanted = 1 << 62
            subscription._ready.set()
        if not subscription._paused and subscription._weight_in - subscription._weight_out >= subscription._high:
            subscription._pause_reading(transport)

    def settle(self) -> None:
        """Makes the newest frame received the point to resume from, unless its number is doubtful."""
        if self._newest is not None:
            seq = seq_of(self._newest)
            if seq is not None:
                self._subscription._reach(seq, self.frames - self._settled)
                self._settled = self.frames
            self._newest = None

    def ping(self) -> None:
        if self.transport is not None and not self.transport.is_disconnected:
            self.transport.send_ping(b"")

    def close(self, reason: str) -> None:
        """Ends the connection without waiting for the server; frames that come after this are dropped."""
        transport = self.transport
        if self._closing or transport is None or transport.is_disconnected:
            return
        self._closing = True
        self.reason = reason
        transport.send_close(WSCloseCode.GOING_AWAY)
        transport.disconnect(graceful=False)

    def _uncommon(self, frame: WSFrame) -> bytes | None:
        """A frame that is not a whole binary message by itself: the message that it completes, if any."""
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise WSProtocolError(
                WSCloseCode.PROTOCOL_ERROR, "a compressed message, although no extension was agreed on"
            )
        if kind == _CLOSE:
            self._closing = True
            assert self.transport is not None
            self.transport.send_close(WSCloseCode.OK)
            self.transport.disconnect(graceful=False)
            return None
        if kind not in (_BINARY, _TEXT, _CONTINUATION):
            self.pongs += 1
            return None
        if (kind == _CONTINUATION) == (self._fragments is None):
            raise self._broken(WSCloseCode.PROTOCOL_ERROR, "message fragments out of order")
        if self._fragments is None:
            self._fragments = bytearray()
            self._fragments_are_text = kind == _TEXT
        if len(self._fragments) + frame.payload_size > MAX_FRAME_BYTES:
            raise self._broken(WSCloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAME_BYTES:,} bytes")
        self._fragments += frame.get_payload_as_memoryview()
        if not frame.fin:
            return None
        message, self._fragments = bytes(self._fragments), None
        if self._fragments_are_text:
            self._note_text(message)
            return None
        return message

    def _broken(self, code: WSCloseCode, what: str) -> WSProtocolError:
        """The error to end the connection with; nothing after it may be taken for the event that it cost us."""
        self._closing = True
        return WSProtocolError(code, what)

    def _note_text(self, message: bytes) -> None:
        if self._text_seen:
            return
        self._text_seen = True
        text = f"{self._subscription.url} sends text messages, which are ignored."
        self._subscription._notice(Notice("text", "", text, self.cursor, frame=message[:1_000]))
        log.warning("%s", text, extra={"url": self._subscription.url})

    def _is_event(self, payload: bytes) -> bool:
        """False for a control frame (noted) and for the one repetition that resuming may bring."""
        control = None if payload.startswith(COMMIT_HEADER) else control_of(payload)
        if control is not None:
            self._control(control, payload)
            return False
        if not self._first:
            return True
        seq = seq_of(payload)
        if seq is None:
            return True
        self._first = False
        if not self.cursor:  # none, or 0: whatever comes first is right
            self._subscription._line.see(seq, time.monotonic())
            return True
        if seq > self.cursor + 1:
            self._note("gap", f"Events between {self.cursor} and {seq} are missing", seq)
        elif seq < self.cursor:
            self._note("went_back", f"The stream continues at {seq}, before cursor {self.cursor}", seq)
            self._subscription._line.go_back(seq)
        return seq != self.cursor

    def _note(self, kind: NoticeKind, text: str, seq: int) -> None:
        name = "OutdatedCursor" if self._outdated else ""
        message = f"{text} ({self._subscription.url}{', ' + name if name else ''})."
        self._subscription._notice(Notice(kind, name, message, self.cursor, seq))
        log.warning("%s", message, extra={"cursor": self.cursor, "first_seq": seq})

    def _control(self, control: Control, payload: bytes) -> None:
        kind: NoticeKind = "error" if control.is_error else "info"
        self._subscription._notice(Notice(kind, control.name, control.message, self.cursor, frame=payload[:65_536]))
        if control.is_error:
            self.close("")
            self.error = control
        else:
            log.warning("%s says: %s (%s).", self._subscription.url, control.name, control.message)
            self._outdated = self._outdated or control.name == "OutdatedCursor"


class _GatheringSelector(selectors.DefaultSelector):
    """Lets what arrives gather for a moment before it tells of it, while little arrives.

    Waking up for each frame takes more CPU at the network's usual pace than decoding it. When much arrives nobody may
    wait: the kernel would take the pause for a long way to the server, and buffer all the more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0  # received in this second
        self._second = time.monotonic()
        self._calm = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        now = time.monotonic()
        if self.bytes >= CALM_BYTES or now - self._second >= 1:
            self._calm = self.bytes < CALM_BYTES
            self.bytes, self._second = 0, now
        if ready and self._calm:
            time.sleep(GATHER_SECONDS)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that can end at any moment.

    The standard one resolves names in an executor, whose threads the interpreter waits for at exit, and a resolver
    without a network takes half a minute. And it leaves open the socket of a connection whose making was cancelled.
    """

    def __init__(self) -> None:
        self.gathering = _GatheringSelector()
        super().__init__(self.gathering)
        self._last_socket: socket.socket | None = None

    def finish(self) -> None:
        """Lets connections that were given up close, then closes the loop."""
        for _ in range(3):
            self.run_until_complete(asyncio.sleep(0))
        if self._last_socket is not None:
            with suppress(OSError):  # already closed, mostly
                self._last_socket.shutdown(socket.SHUT_RDWR)
        self.close()

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects, and remembers the socket."""
        self._last_socket = sock
        await super().sock_connect(sock, address)

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        answer: asyncio.Future[list[Any]] = self.create_future()

        def settle(addresses: list[Any] | None, error: OSError | UnicodeError | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(addresses or [])

        def resolve() -> None:
            result: tuple[list[Any] | None, OSError | UnicodeError | None]
            try:
                result = (socket.getaddrinfo(host, port, family, type, proto, flags), None)
            except UnicodeError as error:  # a label that is empty or too long
                result = (None, socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}"))
            except OSError as error:
                result = (None, error)
            if not self.is_closed():
                self.call_soon_threadsafe(settle, *result)

        threading.Thread(target=resolve, name="resolve", daemon=True).start()
        return await answer


def _is_beyond(cursor: int | None, before: int | None) -> bool:
    return cursor is not None and (before is None or cursor > before)


def _log_loop_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for what the event loop reports, not its traceback. A transport's error is told elsewhere."""
    error = context.get("exception")
    log.log(logging.DEBUG if isinstance(error, OSError) else logging.WARNING, "%s: %r", context.get("message"), error)


_picows_log = logging.getLogger(f"{__name__}.picows")
_picows_log.setLevel(logging.CRITICAL)  # what it reports as errors are our sentences already
