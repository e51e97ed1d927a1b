"""One connection of a subscription: from WebSocket messages to frames in the buffer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport

from appview_pipeline.network.frame_buffer import FrameBuffer
from appview_pipeline.network.notices import Notice, NoticeKind, Notices
from appview_pipeline.network.resume_point import ResumePoint
from appview_pipeline.protocol.event_stream import (
    MAX_FRAME_BYTES,
    Info,
    StreamError,
    control_of,
    printable,
    seq_of,
)

log = logging.getLogger(__name__)

MAX_NOTED_BYTES = 65_536
"""Bytes of a frame that are kept with a notice."""
MAX_LOGGED = 10
"""Notices of a server that are logged as warnings, of one connection."""
MAX_OTHER_MESSAGES = 1_000
"""Messages of a stranger, between two calls of `allow_others`, that are no events: pings, notices, text, tiny parts of
messages. A server that sends more keeps us busy for nothing."""
TINY_BYTES = 256
"""Parts of messages that are smaller count with those."""
MAX_UNSENT_BYTES = 65_536
"""Answers to a server's pings that it does not take."""

_BINARY, _TEXT, _CONTINUATION, _CLOSE = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION, WSMsgType.CLOSE
_PING = WSMsgType.PING


@dataclass
class Received:
    """What a subscription has received: shared by its connections, of which there is one at a time.

    `usual_header`: nearly all frames begin with it, and those that do are events. `leaps`: numbers are left out without
    any event missing. `is_strangers`: a stranger named the server. `last_frame_at`: UNIX seconds.
    """

    usual_header: bytes
    buffer: FrameBuffer
    resume_point: ResumePoint
    notices: Notices
    leaps: bool = False
    is_strangers: bool = False
    last_frame_at: float | None = None


class Connection(WSListener):
    """Takes messages off the socket into `received`, until `ended` is set.

    `url` is the server as log messages and errors name it. `on_connected` is called once the handshake is done.
    `cursor` is what the connection resumes after. For the network's thread only.
    """

    def __init__(
        self, url: str, received: Received, ended: asyncio.Future[None], on_connected: Callable[[Connection], None]
    ) -> None:
        self.url = url
        self.cursor = received.resume_point.cursor
        self.ended = ended
        self.transport: WSTransport | None = None
        self.since = time.monotonic()
        self.frames = 0
        self.pongs = 0
        self._infos = 0
        self._others = 0  # since the last call of `allow_others`
        self.error: StreamError | None = None  # what the server ended the stream with
        self.reason = ""  # what we ended it for
        self._received = received
        self._buffer = received.buffer
        self._usual_header = received.usual_header
        self._on_connected = on_connected
        self._is_closing = False
        self._settled = 0  # frames that the resume point takes into account
        self._newest: bytes | None = None  # the last frame, until the resume point takes it into account
        self._is_first = True  # no frame with a sequence number has come yet
        self._is_outdated = False
        self._text_seen = False
        self._fragments: bytearray | None = None
        self._fragments_are_text = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by the WebSocket client."""
        self.transport = transport
        self.since = time.monotonic()
        self._on_connected(self)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Called by the WebSocket client."""
        if not self.ended.done():
            self.ended.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Called by the WebSocket client for each of its frames, of which a message may have several."""
        if self._is_closing:
            return
        if frame.msg_type == _BINARY and frame.fin and self._fragments is None and not frame.rsv1:
            payload = frame.get_payload_as_bytes()
        else:
            whole = self._uncommon(frame)
            if whole is None:
                return
            payload = whole
        if (self._is_first or not payload.startswith(self._usual_header)) and not self._is_event(payload):
            return
        if len(payload) > MAX_FRAME_BYTES:  # the client's parser goes on for some milliseconds after refusing it
            self._is_closing = True
            return
        self.frames += 1
        buffer = self._buffer
        buffer.add(payload)
        self._newest = payload
        if frame.last_in_buffer:
            # Once a read, not once a frame; in between, `_newest` is there in case that the connection ends.
            self.settle()
            self._received.last_frame_at = time.time()
        if buffer.announce():
            transport.underlying_transport.pause_reading()

    def settle(self) -> None:
        """Makes the newest frame received the point to resume from, unless its number is doubtful."""
        if self._newest is not None:
            seq = seq_of(self._newest)
            if seq is not None:
                self._received.resume_point.reach(seq, self.frames - self._settled)
                self._settled = self.frames
            self._newest = None

    def ping(self) -> None:
        """Asks the server for a sign of life."""
        if self.transport is not None and not self.transport.is_disconnected:
            self.transport.send_ping(b"")

    def allow_others(self) -> None:
        """To be called every second: a stranger's messages that are no events are limited between two calls."""
        self._others = 0

    def resume_reading(self) -> None:
        """Reads from the socket again after the buffer was full."""
        if self.transport is not None:
            self.transport.underlying_transport.resume_reading()

    def close(self, reason: str) -> None:
        """Ends the connection without waiting for the server; frames that come after this are dropped."""
        transport = self.transport
        if self._is_closing or transport is None or transport.is_disconnected:
            return
        self._is_closing = True
        self.reason = reason
        transport.send_close(WSCloseCode.GOING_AWAY)
        transport.disconnect(graceful=False)

    def _uncommon(self, frame: WSFrame) -> bytes | None:
        """A frame that is not a whole binary message by itself: the message that it completes, if any."""
        kind = frame.msg_type
        if kind != _CONTINUATION or frame.payload_size < TINY_BYTES:
            self._count_other()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise WSProtocolError(
                WSCloseCode.PROTOCOL_ERROR, "a compressed message, although no extension was agreed on"
            )
        if kind == _CLOSE:
            self._is_closing = True
            assert self.transport is not None
            self.transport.send_close(WSCloseCode.OK)
            self.transport.disconnect(graceful=False)
            return None
        if kind not in (_BINARY, _TEXT, _CONTINUATION):
            self.pongs += 1
            if kind == _PING:
                self._answer_ping(frame.get_payload_as_bytes())
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

    def _answer_ping(self, payload: bytes) -> None:
        assert self.transport is not None
        if self._is_closing or self.transport.is_disconnected:
            return
        if self.transport.underlying_transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.close(f"{self.url} does not take the answers to its pings.")
        else:
            self.transport.send_pong(payload)

    def _count_other(self) -> None:
        self._others += 1
        if self._others > MAX_OTHER_MESSAGES and self._received.is_strangers:
            self.close(f"{self.url} sends more than {MAX_OTHER_MESSAGES:,} messages a second that are no events.")

    def _broken(self, code: WSCloseCode, what: str) -> WSProtocolError:
        """The error to end the connection with; nothing after it may be taken for the event that it cost us."""
        self._is_closing = True
        return WSProtocolError(code, what)

    def _is_event(self, payload: bytes) -> bool:
        """False for a control frame (noted) and for the one repetition that resuming may bring."""
        control = None if payload.startswith(self._usual_header) else control_of(payload)
        if control is not None:
            self._count_other()
            self._note_control(control, payload)
            return False
        if not self._is_first:
            return True
        seq = seq_of(payload)
        if seq is None:
            return True
        self._is_first = False
        if not self.cursor:  # none, or 0: whatever comes first is right
            self._received.resume_point.begin(seq)
            return True
        if seq > self.cursor + 1 and (self._is_outdated or not self._received.leaps):
            self._note_first("gap", f"Events between {self.cursor} and {seq} are missing", seq)
        elif seq < self.cursor:
            self._note_first("went_back", f"The stream continues at {seq}, before cursor {self.cursor}", seq)
            self._received.resume_point.go_back(seq)
        return seq != self.cursor

    def _note_first(self, kind: NoticeKind, text: str, seq: int) -> None:
        name = "OutdatedCursor" if self._is_outdated else ""
        message = f"{text} ({self.url}{', ' + name if name else ''})."
        self._received.notices.add(Notice(kind=kind, name=name, message=message, cursor=self.cursor, first_seq=seq))
        log.warning("%s", message, extra={"cursor": self.cursor, "first_seq": seq})

    def _note_control(self, control: Info | StreamError, payload: bytes) -> None:
        message = printable(control.message)
        kept = payload[:MAX_NOTED_BYTES]
        if isinstance(control, StreamError):
            name = printable(control.name) or "an unnamed error"
            self._received.notices.add(Notice(kind="error", name=name, message=message, cursor=self.cursor, frame=kept))
            self.close("")
            self.error = StreamError(name, message)
        else:
            name = printable(control.name) or "an unnamed notice"
            self._received.notices.add(Notice(kind="info", name=name, message=message, cursor=self.cursor, frame=kept))
            # A stranger may say it a thousand times a second.
            level = logging.WARNING if self._infos < MAX_LOGGED else logging.DEBUG
            self._infos += 1
            log.log(level, "%s says: %s (%s).", self.url, name, message)
            self._is_outdated = self._is_outdated or name == "OutdatedCursor"

    def _note_text(self, message: bytes) -> None:
        if self._text_seen:
            return
        self._text_seen = True
        text, start = f"{self.url} sends text messages, which are ignored.", message[:1_000]
        self._received.notices.add(Notice(kind="text", name="", message=text, cursor=self.cursor, frame=start))
        log.warning("%s", text, extra={"url": self.url})
