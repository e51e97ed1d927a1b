"""Shards: a stream divided among consumers by repository, and where each of them starts when the division changes.

Shard `i/n` has the repositories whose number is `i` modulo `n`. A repository's number is the first four bytes, big
endian, of the SHA-256 of its DID (UTF-8); in PostgreSQL
`('x' || encode(substr(sha256(convert_to(did, 'UTF8')), 1, 4), 'hex'))::bit(32)::bigint`. It never changes: stored
cursors depend on it. The `n` shards of one number are a layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

MAX_SHARDS = 64
_MAX_PARTS = 1_000_000


def number_of(did: bytes) -> int:
    """The number, from 0 to 2**32 - 1, that decides which shard a repository belongs to."""
    return int.from_bytes(sha256(did).digest()[:4], "big")


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads "i/n". Raises ValueError in words."""
        index, slash, count = text.partition("/")
        if slash and index.isascii() and count.isascii() and index.isdigit() and count.isdigit():
            shard = cls(int(index), int(count))
            if 0 <= shard.index < shard.count <= MAX_SHARDS:
                return shard
        raise ValueError(f"must be i/n with i from 0 to n-1 and n at most {MAX_SHARDS} (0/4, 1/4, 2/4 and 3/4, say)")

    @property
    def is_first(self) -> bool:
        """Whether this shard has what belongs to no repository."""
        return self.index == 0

    def takes(self, did: bytes | None) -> bool:
        """Whether a repository is this shard's. None: what belongs to no repository."""
        return (0 if did is None else number_of(did) % self.count) == self.index

    def overlaps(self, other: Shard) -> bool:
        """Whether some repositories are in both."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


WHOLE = Shard(0, 1)


class StoredCursor(NamedTuple):
    """A shard's cursor: everything of its repositories up to `seq` is applied. `moved_at`: when it last moved."""

    shard: Shard
    seq: int
    moved_at: datetime


def start_of(shard: Shard, cursors: Iterable[StoredCursor], otherwise: int | None = None) -> int | None:
    """The sequence number after which `shard` starts: nothing of its repositories is lost, and little read again.

    `cursors` are the relay's, of all layouts, its own among them. Of the cursors that cover a part of the shard, the
    one that moved last says how far that part is applied; the part that is furthest behind decides. So a cursor that
    was left behind long ago counts only for parts that no other shard has had since, and a cursor from before a relay
    began to number anew does not count. Parts that no shard ever had begin after `otherwise` (None: at the newest
    event, which holds back no other part). None is returned where no shard had any part.
    """
    known = sorted((it for it in cursors if it.shard.overlaps(shard)), key=lambda it: (it.moved_at, -it.seq))
    parts = math.lcm(shard.count, *(it.shard.count for it in known))
    if not known:
        return None
    if parts > _MAX_PARTS:
        reached: list[int | None] = [None, *(it.seq for it in known)]
    else:
        # A part is a residue modulo the least common multiple of all counts: no shard divides it.
        newest: dict[int, int | None] = dict.fromkeys(range(shard.index, parts, shard.count))
        for it in known:
            newest.update((part, it.seq) for part in range(it.shard.index, parts, it.shard.count) if part in newest)
        reached = list(newest.values())
    covered = [seq for seq in reached if seq is not None]
    if None in reached and otherwise is not None:
        covered.append(otherwise)
    return min(covered)
