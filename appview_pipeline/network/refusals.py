"""Why a connection could not be made, in one sentence with the remedy."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from picows import WSHandshakeError

from appview_pipeline.backoff import MAX_RETRY_AFTER
from appview_pipeline.protocol.event_stream import printable

CONNECT_FAILURES = (OSError, asyncio.TimeoutError, WSHandshakeError)
"""The errors that `explain` takes: name resolution, TCP and TLS failures, time-outs, answers other than a WebSocket."""

MAX_ANSWER_BYTES = 16 * 1024
MAX_ANSWER_LINES = 128
"""Limits of the WebSocket client: it reads no further in the header of an answer."""

_HOPELESS = {400, 401, 403, 404, 405, 410, 426, 501}


@dataclass(frozen=True)
class Refusal:
    """`hopeless`: trying soon can't help. `retry_after`: seconds that the server asked clients to wait."""

    sentence: str
    hopeless: bool = False
    retry_after: float = 0.0


def explain(error: BaseException, url: str, setting: str, *, is_strangers: bool = False) -> Refusal:
    """The sentence for an `error` of connecting to the WebSocket at `url`, which the operator's `setting` holds.

    `is_strangers`: a stranger holds it, so the operator can't correct it.
    """
    parts = urlsplit(url)
    host = parts.hostname or url
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    schemes = "" if is_strangers else " (ws:// is without TLS, wss:// with)"
    if isinstance(error, WSHandshakeError):
        return _explain_answer(error, host, setting, is_strangers)
    if isinstance(error, socket.gaierror):
        return Refusal(
            f"The host name {host} can't be resolved ({error.strerror}): check {setting} and this machine's network "
            "and DNS."
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal(
            f"The certificate of {host} can't be verified ({error.verify_message}): check {setting}, this machine's "
            "clock and its root certificates (SSL_CERT_FILE)."
        )
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return Refusal(f"No TLS connection to {host}:{port} ({reason}): check {setting}{schemes}.")
    if isinstance(error, asyncio.TimeoutError | TimeoutError) or _errno(error) == errno.ETIMEDOUT:
        return Refusal(f"{host}:{port} does not answer: check {setting} and this machine's network and firewall.")
    if _errno(error) == errno.ECONNREFUSED:
        return Refusal(f"{host}:{port} refuses the connection: check {setting} and that the server runs.")
    if _errno(error) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Refusal(f"There is no route to {host}:{port}: check {setting} and this machine's network.")
    if isinstance(error, ConnectionError):
        return Refusal(f"{host}:{port} broke the connection off while it was being made: check {setting}{schemes}.")
    return Refusal(f"The connection to {host}:{port} failed ({printable(str(error)) or type(error).__name__}).")


def _errno(error: BaseException) -> int | None:
    """The error number; where several addresses were tried and failed differently, that of the last one."""
    if not isinstance(error, OSError):
        return None
    if error.errno is not None:
        return error.errno
    numbers = re.findall(r"\[Errno (\d+)\]", str(error))
    return int(numbers[-1]) if numbers else None


def _explain_answer(error: WSHandshakeError, host: str, setting: str, is_strangers: bool) -> Refusal:
    status = _status(error)
    if _is_too_long(error.raw_header or b""):
        # A proxy in trouble may send anything at length; the address was right before, and may be again.
        what = f"HTTP {status}" if status is not None else "something that is no WebSocket handshake"
        return Refusal(
            f"{host} answered {what} with a header that is too long to be read; trying again later.",
            False,
            _retry_after(error),
        )
    if status is None:
        return Refusal(f"{host} does not answer like a WebSocket server: check {setting}.", hopeless=True)
    body = printable((error.raw_body or b"")[:500].decode("utf-8", "replace"))
    answer = f"{host} answered HTTP {status}" + (f" ({body})" if body else "")
    if 300 <= status < 400:
        location = printable(error.response.headers.get("Location")) if error.response else ""
        remedy = f"redirects are not followed; check {setting}" if is_strangers else f"set {setting} to it"
        return Refusal(f"{answer}, a redirect to {location or 'nowhere'}: {remedy}.", hopeless=True)
    if status == 400:
        return Refusal(f"{answer}: it does not accept the request; check {setting} and the cursor.", hopeless=True)
    if status in _HOPELESS:
        return Refusal(f"{answer}: there is no event stream for us at this address; check {setting}.", hopeless=True)
    retry_after = _retry_after(error)
    if status == 429:
        return Refusal(
            f"{answer}: too many connections from this address; waiting before the next.", False, retry_after
        )
    if status >= 500:
        return Refusal(f"{answer}: it has trouble of its own; trying again later.", False, retry_after)
    return Refusal(f"{answer} instead of a WebSocket: check {setting}.", hopeless=True)


def _is_too_long(header: bytes) -> bool:
    return len(header) >= MAX_ANSWER_BYTES or header.count(b"\r\n") > MAX_ANSWER_LINES


def _status(error: WSHandshakeError) -> int | None:
    """The HTTP status, also one that the standard library has no name for (520 to 530 of a well-known proxy)."""
    if error.response is not None and getattr(error.response, "status", None) is not None:
        return int(error.response.status)
    match = re.match(rb"HTTP/1\.[01] (\d{3})\b", error.raw_header or b"")
    return int(match[1]) if match else None


def _retry_after(error: WSHandshakeError) -> float:
    """`Retry-After` in seconds (RFC 9110 section 10.2.3: a number or a date), 0 where absent or unreadable."""
    match = re.search(rb"(?im)^retry-after:[ \t]*([^\r\n]{1,64})", error.raw_header or b"")
    if not match:
        return 0.0
    text = match[1].decode("latin-1").strip()
    if text.isdecimal():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
