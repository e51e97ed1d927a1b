"""The partition of an account: PostgreSQL's `hashtext(did) & 63`, as in `pipeline.backfill_queue.bucket`."""

from __future__ import annotations

import struct

_ALL = 0xFFFFFFFF


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _ALL


def bucket_of(did: str) -> int:
    """The partition, 0 to 63. (src/common/hashfn.c, `hash_bytes`: Bob Jenkins' lookup3.)"""
    key = did.encode()
    a = b = c = (0x9E3779B9 + len(key) + 3923095) & _ALL
    at = 0
    while len(key) - at >= 12:
        x, y, z = struct.unpack_from("<III", key, at)
        a, b, c = _mixed((a + x) & _ALL, (b + y) & _ALL, (c + z) & _ALL)
        at += 12
    rest = key[at:]
    x, y = struct.unpack("<II", rest[:8].ljust(8, b"\0"))
    # The lowest byte of the third word is left to the length.
    (z,) = struct.unpack("<I", b"\0" + rest[8:].ljust(3, b"\0"))
    return _last((a + x) & _ALL, (b + y) & _ALL, (c + z) & _ALL) & 63


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        # One line of the macro; the three change places with each.
        a = ((a - c) & _ALL) ^ _rotated(c, bits)
        c = (c + b) & _ALL
        a, b, c = b, c, a
    return a, b, c


def _last(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, bits)) & _ALL
        a, b, c = b, c, a
    return b  # the one that was changed last
