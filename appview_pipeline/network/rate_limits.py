"""The pauses that servers ask for: `Retry-After`, `RateLimit-*`, and the statuses 429 and 503."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from appview_pipeline.backoff import MAX_RETRY_AFTER, MIN_RETRY_AFTER, Backoff, parked_host

PARKING_STATUSES = (429, 503)
_FIRST_TIMESTAMP = 1_000_000_000
"""A larger number in `RateLimit-Reset` is a UNIX time (Bluesky's servers send that), a smaller one counts seconds."""


@dataclass
class Parking:
    """Until when one server is left alone. `now` is in seconds of any clock that does not go back."""

    until: float = 0.0
    _backoff: Backoff = field(default_factory=parked_host)

    def seconds_left(self, now: float) -> float:
        """Seconds until it may be asked again; 0 when it may be asked now."""
        return max(0.0, self.until - now)

    def refused(self, now: float, headers: Mapping[str, str]) -> float:
        """The server answered 429 or 503. Returns the seconds until it may be asked again.

        Without a `Retry-After` that can be read, and with one of 0, the pauses grow by themselves.
        """
        asked = retry_after(headers) or rate_limit_pause(headers)
        if asked:
            self._park(now, asked)
        elif self.until <= now:  # of several answers to requests made at once, only the first makes the pause longer
            self._park(now, self._backoff.next())
        return self.seconds_left(now)

    def answered(self, now: float, headers: Mapping[str, str], in_flight: int) -> None:
        """The server answered a request, beside which it has `in_flight` more, which will use what is left."""
        self._backoff.failures = 0
        pause = rate_limit_pause(headers, in_flight)
        if pause:
            self._park(now, pause)

    def _park(self, now: float, seconds: float) -> None:
        self.until = max(self.until, now + min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110 section 10.2.3), at most `MAX_RETRY_AFTER`.

    None where it is missing, can't be read, or is no time in the future.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{0,20})?", text):  # some servers send fractions
        seconds = float(text)
    elif 20 <= len(text) <= 40:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    else:
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def rate_limit_pause(headers: Mapping[str, str], in_flight: int = 0) -> float | None:
    """Seconds until the limit's window ends, where `in_flight` more requests use it up; else None.

    Reads `RateLimit-Remaining` and `RateLimit-Reset`, also with the prefix `X-`, and the later form
    `RateLimit: "name";r=0;t=30` (https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers).
    """
    for prefix in ("RateLimit-", "X-RateLimit-"):
        remaining, reset = _number(headers.get(f"{prefix}Remaining")), _number(headers.get(f"{prefix}Reset"))
        if remaining is not None and reset is not None:
            return _pause(remaining, reset, in_flight)
    pauses = [
        _pause(_item(limit, "r", "remaining"), _item(limit, "t", "reset"), in_flight)
        for limit in re.split(r",(?=\s*\")", headers.get("RateLimit", "")[:1_000])
    ]
    return max((pause for pause in pauses if pause is not None), default=None)


def _pause(remaining: int | None, reset: int | None, in_flight: int) -> float | None:
    if remaining is None or reset is None or remaining > in_flight:
        return None
    seconds = reset - time.time() if reset >= _FIRST_TIMESTAMP else float(reset)
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def _item(limit: str, *names: str) -> int | None:
    match = re.search(rf"(?:^|[;,\s])(?:{'|'.join(names)})=([0-9]{{1,12}})(?![0-9])", limit)
    return int(match[1]) if match else None


def _number(text: str | None) -> int | None:
    match = re.match(r"\s*([0-9]{1,12})(?:\.[0-9]*)?(?=$|[\s,;])", text or "")
    return int(match[1]) if match else None
