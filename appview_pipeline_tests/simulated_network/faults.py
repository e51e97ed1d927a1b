"""What the servers of the simulated network can be made to do wrong, for the next requests or a share of accounts."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from dataclasses import dataclass, field

HUGE_BYTES = 50_000_000

KINDS = ("hang", "fail", "garbage", "huge", "drip", "missing", "gone", "limited")
"""What happens to an account's requests:

- `hang`: no answer, until the client hangs up.
- `fail`: status 500; of the DNS server SERVFAIL.
- `garbage`: one of several answers with status 200 that can't be used (`GARBAGE`).
- `huge`: a body of 50 MB, in chunks, without its length; of the DNS server 300 TXT records.
- `drip`: the right answer, a byte every `drip_seconds`.
- `missing`, `gone`: status 404, 410; of the DNS server NXDOMAIN.
- `limited`: status 429 with `Retry-After`.
"""

GARBAGE: tuple[tuple[bytes, str], ...] = (
    (b"<!DOCTYPE html><html><head><title>It works</title></head><body>It works</body></html>", "text/html"),
    (bytes(range(256)) * 4, "application/octet-stream"),
    (b'{"id": "did:plc:', "application/json"),
    (b"[" * 10_000, "application/json"),
    (b'{"id": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "service": "none", "alsoKnownAs": 7}', "application/json"),
    (b"", "application/json"),
)
"""Bodies and content types."""


@dataclass(frozen=True)
class AccountFaults:
    """The shares of accounts, 0 to 1, to which each kind happens; `seed` chooses which accounts they are.

    An account has at most one kind, the same at every request and on every machine.
    """

    hang: float = 0.0
    fail: float = 0.0
    garbage: float = 0.0
    huge: float = 0.0
    drip: float = 0.0
    missing: float = 0.0
    gone: float = 0.0
    limited: float = 0.0
    seed: int = 0

    def of(self, did: str) -> str | None:
        """What happens to the requests about an account; None: nothing."""
        drawn = draw(f"{self.seed} {did}")
        for kind in KINDS:
            share: float = getattr(self, kind)
            if drawn < share:
                return kind
            drawn -= share
        return None


def draw(text: str) -> float:
    """A number from 0 up to 1 that depends on `text` alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / (1 << 56)


@dataclass(frozen=True)
class RateLimit:
    """So many requests in a window of `seconds`; every answer says so in the headers `RateLimit-*`, more get a 429."""

    requests: int
    seconds: float


@dataclass
class Faults:
    """Faults of one server, and counters that prove that they happened. All may be changed while it runs.

    - `statuses`: what the next requests are answered instead, one each.
    - `delay`: seconds before every answer.
    - `accounts`: shares of accounts by chance; `named`: DID -> kind for single accounts, "none" to spare one.
    - `everybody`: the kind that every request meets now (`outages.py` sets it), whatever it is about.
    - `retry_after`: seconds in the `Retry-After` of every 429; None: no such header.
    - `rate_limit`: see `RateLimit`.
    """

    statuses: deque[int] = field(default_factory=deque)
    delay: float = 0.0
    accounts: AccountFaults = field(default_factory=AccountFaults)
    named: dict[str, str] = field(default_factory=dict)
    everybody: str | None = None
    retry_after: float | None = 1
    drip_seconds: float = 1.0
    rate_limit: RateLimit | None = None

    injected: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)

    def of(self, did: str | None) -> str | None:
        """The kind of fault that a request about `did` meets; counted."""
        kind = self.everybody
        if kind is None and did is not None:
            kind = self.named.get(did) or self.accounts.of(did)
        if kind is None or kind == "none":
            return None
        self.injected += 1
        self.by_kind[kind] += 1
        return kind


def garbage_for(did: str) -> tuple[bytes, str]:
    """A body and its content type, the same for an account each time."""
    return GARBAGE[int(draw(f"garbage {did}") * len(GARBAGE))]
