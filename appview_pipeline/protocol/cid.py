"""Content identifiers as the AT Protocol uses them: CIDv1, SHA-256, of DAG-CBOR (records, commits, tree nodes) or raw
bytes (blobs).

A CID is 36 bytes everywhere in this package: version 1, codec 0x71 (dag-cbor) or 0x55 (raw), hash 0x12 (sha2-256),
length 0x20, digest. Its text form is multibase base32 ("bafyrei..." or "bafkrei..."), 59 characters.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TypeGuard

from libipld import decode_cid, decode_multibase, encode_multibase

DAG_CBOR = b"\x01\x71\x12\x20"
RAW = b"\x01\x55\x12\x20"
LENGTH = 36

# The version, codec and hash fill six digits and a bit of the seventh, hence [a-h]; 288 bits in 58 digits leave two
# over, which must be zero, hence the last set.
_match_text = re.compile(r"baf[yk]rei[a-h][a-z2-7]{50}[aeimquy4]").fullmatch


def to_text(cid: bytes) -> str:
    """Base32 text of a binary CID."""
    text: str = encode_multibase("b", cid)
    return text


def from_text(text: str) -> bytes:
    """The 36 bytes of a CID in base32 text. ValueError if it is not one of the two kinds that the protocol uses."""
    if _match_text(text) is None:
        raise ValueError(f"not a CID of the AT Protocol: {text[:100]!r}")
    cid: bytes = decode_multibase(text)[1]
    return cid


def is_cid(value: object) -> TypeGuard[bytes]:
    """Whether a value is the bytes of a CID of either kind."""
    return isinstance(value, bytes) and len(value) == LENGTH and value[:4] in (DAG_CBOR, RAW)


def is_dag_cbor(value: object) -> TypeGuard[bytes]:
    """Whether a value is the bytes of a CID of DAG-CBOR, as that of a record, a commit or a tree node must be."""
    return type(value) is bytes and len(value) == LENGTH and value[:4] == DAG_CBOR


def is_parsable(text: str) -> bool:
    """Whether text is any CID at all, of any version, codec and hash, as Lexicon's `cid` format asks."""
    if _match_text(text) is not None:
        return True
    if not 8 <= len(text) <= 256 or not text.isascii():
        return False
    try:
        decode_cid(text)
    except ValueError:
        return False
    return True


def cid_for_cbor(block: bytes) -> bytes:
    """The CID of a DAG-CBOR block."""
    return DAG_CBOR + sha256(block).digest()


def cid_for_raw(data: bytes) -> bytes:
    """The CID of raw bytes (a blob)."""
    return RAW + sha256(data).digest()
