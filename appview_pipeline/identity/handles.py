"""Handles, checked against the DID that claims them (https://atproto.com/specs/handle).

A handle names a DID in DNS (TXT record `did=...` of `_atproto.{handle}`) or, where DNS names none, by HTTPS
(`https://{handle}/.well-known/atproto-did`). It is verified when that DID is the one whose document claims the handle.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HandleCheck:
    """Whether a handle belongs to the DID that claims it.

    `did` is whom the handle names and `source` where (`dns`, `https`); `reason` says in words why it is not verified.
    `is_final`: asking again soon gives the same. When it is False, `retry_after` has the seconds to wait where they are
    known, and `blames_account` is False when the attempt was not even made (a parked host, an open breaker).
    """

    handle: str
    verified: bool
    did: str | None
    source: str | None
    reason: str | None
    is_final: bool
    retry_after: float | None = None
    blames_account: bool = True
