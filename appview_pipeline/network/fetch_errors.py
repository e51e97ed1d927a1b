"""Why a fetch failed: the one error of everything that is fetched, and the kinds that it has."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "url",  # not a URL that may be asked, by its text alone
    "name",  # the host name has no address, or was not looked up in time
    "refused address",  # the host has an address that is not on the public network
    "connection",  # refused, reset, no route, or an answer that is not HTTP
    "tls",  # no TLS, or a certificate that is not the host's
    "timeout",  # a limit of time was reached
    "too big",  # the body, or the header, is beyond its limit
    "redirect",  # a redirect that was not asked for, one too many, or one to nowhere
    "encoding",  # a content encoding, which was not asked for
    "status",  # an HTTP status that is an error
    "parked",  # the host asked to be left alone for a while (429, 503, RateLimit)
    "breaker open",  # the host failed several times in a row, and is not asked for a while
]


class FetchError(Exception):
    """A fetch that brought no answer. `str()` is the reason: a part of a sentence that a person can read.

    `retry_after`: seconds after which asking again makes sense, where that is known (parked, breaker open).
    `blames_account`: the failure says something about what was asked for. False where the request never reached the
    host: such a try does not count as one.
    `host`: the host that was asked last, with its port where that is not the usual one; empty where none was.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        *,
        host: str = "",
        retry_after: float | None = None,
        blames_account: bool = True,
    ) -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = reason
        self.host = host
        self.retry_after = retry_after
        self.blames_account = blames_account


class XrpcError(FetchError):
    """An XRPC method answered with an error: its HTTP `status`, and the `name` in its body, or an empty one.

    https://atproto.com/specs/xrpc#error-responses
    """

    def __init__(self, status: int, name: str, reason: str, *, host: str = "") -> None:
        super().__init__("status", reason, host=host)
        self.status = status
        self.name = name
