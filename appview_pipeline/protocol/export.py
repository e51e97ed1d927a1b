"""The export of a whole repository: a CAR that proves itself, read in any order and believed in nothing.

An export comes from a stranger's server. What is used of it is proved from its signed commit downwards: the commit
names the root of the tree by its hash, each node the nodes below it, each path the hash of its record
(https://atproto.com/specs/repository). Whether the commit is signed by its account is the caller's to check
(`signing.verify_commit(key, export.signed, export.sig)`). Blocks that nothing leads to are never looked at.

Everything here takes time and memory in proportion to the bytes of the export at most, whatever they are: an index of
8 to 32 bytes a block, one node and one record at a time. The bytes themselves are the caller's: in memory, or a file
that is mapped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from mmap import mmap
from types import TracebackType
from typing import Any, Literal

from libipld import decode_dag_cbor

from appview_pipeline.protocol.car import MAX_HEADER, InvalidCar, read_header
from appview_pipeline.protocol.cbor import MAX_RECORD
from appview_pipeline.protocol.cid import DAG_CBOR, LENGTH, is_dag_cbor
from appview_pipeline.protocol.commit import (
    FUTURE_TOLERANCE,
    MAX_COMMIT_BLOCK,
    InvalidCommit,
    decode_commit,
)
from appview_pipeline.protocol.mst import get
from appview_pipeline.protocol.mst_node import MAX_PATH, InvalidTree, height_of_key
from appview_pipeline.protocol.syntax import tid_from_micros

MAX_BLOCKS = 50_000_000
"""Limit of the blocks of an export, which its bytes limit too: a record and its part of the tree are some 400 bytes."""
MAX_NODE = 1_000_000
"""Bytes of a node of the tree. A path has an entry of about 100 bytes, and a node with 50 paths is rare: a block beyond
this is made to be expensive."""
SPARE_BYTES = 16_000_000
"""What may be read of records beyond twice the bytes of the export. Many paths may have the same record, a small one as
a rule: an export of a megabyte could hold a terabyte of records."""

Buffer = bytes | mmap

Kind = Literal[
    "car",  # not a CAR version 1 with one root, cut short, or followed by something else
    "commit",  # its root is no commit object that can be used
    "account",  # it is the repository of another account
    "future",  # its rev is in the future
    "tree",  # its tree is none: shape, order of paths, links
    "missing",  # it lacks a block that its tree needs
    "hash",  # a block that is used does not hash to its CID
    "limit",  # too many or too large parts
]


class InvalidExport(ValueError):
    """Bytes that are not the export of a repository. `kind` is a short constant to count by, `reason` says it in words.

    The export is of no use as a whole; what has been read of it before is proved all the same.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = reason


class Export:
    """The export of one repository, made by `read_export`. A context manager, which gives its bytes back at the end.

    `did`: the account; `rev`: of the commit; `commit`, `data`: CIDs (36 bytes) of the commit and of the tree's root;
    `signed`, `sig`: the block of the signed commit object, and the signature in it; `size`: bytes of the CAR; `blocks`:
    how many it has. For one thread at a time.
    """

    def __init__(
        self,
        car: Buffer,
        index: _Index,
        *,
        commit: bytes,
        block: bytes,
        fields: dict[str, Any],
        close: Callable[[], object] | None,
    ) -> None:
        self.did: str = fields["did"]
        self.rev: str = fields["rev"]
        self.data: bytes = fields["data"]
        self.sig: bytes = fields["sig"]
        self.commit = commit
        self.signed = block
        self.size = len(car)
        self.blocks = index.count
        self._car = car
        self._index = index
        self._close = close
        self._left = 2 * self.size + SPARE_BYTES

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Every (path, CID of its record) in the order of paths as bytes, read from the tree while it is iterated.

        Paths are ASCII of at most 1,024 characters; whether one is `collection/rkey` is the caller's to check. Raises
        InvalidExport at the first node that is missing, damaged or at a wrong place.
        """
        return _walk(self.data, self._node)

    def block(self, cid: bytes) -> bytes:
        """The block of a record, its hash checked. Raises InvalidExport where it is missing or another's.

        Of a block that is longer than a record may be (`cbor.MAX_RECORD`) only one byte more than that is returned:
        enough for it to be refused by itself.
        """
        start, end = self._place(cid)
        self._left -= end - start
        if self._left < 0:
            raise InvalidExport("limit", "its records are many times larger than the export: paths share large ones")
        car = self._car
        if end - start <= MAX_RECORD:
            block = car[start:end]
            if sha256(block).digest() != cid[4:]:
                raise _wrong_hash(start)
            return block
        with memoryview(car) as view, view[start:end] as whole:
            if sha256(whole).digest() != cid[4:]:
                raise _wrong_hash(start)
            return bytes(whole[: MAX_RECORD + 1])

    def find(self, path: str) -> bytes | None:
        """The CID of the record at a path, None where the tree proves that there is none. Raises InvalidExport."""
        try:
            return get(self.data, path, self._node)
        except InvalidTree as error:
            raise InvalidExport("tree", f"the tree is not valid: {error}") from None

    def close(self) -> None:
        """Gives the bytes back: a temporary file, if they are in one."""
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, cid: bytes) -> tuple[int, int]:
        place = self._index.place(self._car, cid)
        if place is None:
            raise InvalidExport("missing", "the block of a record is missing: the export is not complete")
        return place

    def _node(self, cid: bytes) -> bytes:
        """The block of a node, its hash checked. Raises InvalidExport."""
        if not is_dag_cbor(cid):
            raise _no_node()
        return _used_block(self._car, self._index, cid, "a node of the tree", MAX_NODE)


def read_export(
    car: Buffer,
    did: str,
    now_micros: int,
    *,
    max_blocks: int = MAX_BLOCKS,
    close: Callable[[], object] | None = None,
) -> Export:
    """Reads where the blocks of an export are, and its commit; the tree is read by `Export.records`.

    `car`: the bytes, or a mapped file. `did`: whose repository it should be. `now_micros`: our clock in microseconds
    since the Unix epoch; a rev more than 5 minutes ahead of it is refused. `close`: called by `Export.close`, and
    where this raises. Raises InvalidExport.
    """
    try:
        return _read(car, did, now_micros, max_blocks, close)
    except BaseException:
        if close is not None:
            close()
        raise


def _read(car: Buffer, did: str, now_micros: int, max_blocks: int, close: Callable[[], object] | None) -> Export:
    try:
        roots, first = read_header(car[: MAX_HEADER + 10])
    except InvalidCar as error:
        raise InvalidExport("car", f"not a CAR: {error}") from None
    if len(roots) != 1 or not is_dag_cbor(roots[0]):
        raise InvalidExport("car", f"the CAR has {len(roots)} roots instead of one commit")
    index = _Index(car, first, max_blocks)
    block = _used_block(car, index, roots[0], "the commit", MAX_COMMIT_BLOCK)
    try:
        fields = decode_commit(block)
    except InvalidCommit as error:
        raise InvalidExport("commit", f"its commit can't be used: {error.reason}") from None
    if fields["did"] != did:
        raise InvalidExport("account", f"it is the repository of another account, {fields['did'][:100]}")
    if fields["rev"] > tid_from_micros(now_micros + FUTURE_TOLERANCE):
        raise InvalidExport("future", f"its rev {fields['rev']} is more than 5 minutes in the future")
    return Export(car, index, commit=roots[0], block=block, fields=fields, close=close)


def _wrong_hash(start: int) -> InvalidExport:
    return InvalidExport("hash", f"the block at byte {start:,} does not hash to its CID")


def _used_block(car: Buffer, index: _Index, cid: bytes, what: str, limit: int) -> bytes:
    """A block of the tree or the commit, its hash checked. Raises InvalidExport."""
    place = index.place(car, cid)
    if place is None:
        raise InvalidExport("missing", f"{what} is missing: the export is not complete")
    start, end = place
    if end - start > limit:
        raise InvalidExport("limit", f"{what} has {end - start:,} bytes; the limit is {limit:,}")
    block = car[start:end]
    if sha256(block).digest() != cid[4:]:
        raise _wrong_hash(start)
    return block


class _Index:
    """Where each block of a CAR is: an open hash table of the positions of sections, 8 to 32 bytes a block.

    A dict of CIDs would take 200. Python's hash of bytes is seeded anew in each process: nobody can choose CIDs, which
    cost nothing where no block hashes to them, that share a place of the table. Where it is not (PYTHONHASHSEED), a
    limit of the steps keeps the time in proportion.
    """

    __slots__ = ("_mask", "_table", "count")

    def __init__(self, car: Buffer, position: int, max_blocks: int) -> None:
        sections = _sections(car, position, max_blocks)
        self.count = len(sections)
        size = 1 << (2 * self.count).bit_length()
        self._mask = mask = size - 1
        self._table = table = array(sections.typecode, bytes(size * sections.itemsize))
        steps = 8 * self.count + 1_000
        for section in sections:
            start = section + (1 if car[section] < 128 else 2 if car[section + 1] < 128 else _width(car, section))
            cid = car[start : start + LENGTH]
            at = hash(cid) & mask
            while other := table[at]:
                steps -= 1
                if self._is_at(car, other, cid):
                    break
                at = at + 1 & mask
            else:
                table[at] = section
            if steps < 0:
                raise InvalidExport("limit", "its CIDs are made to share places of our index")

    @staticmethod
    def _is_at(car: Buffer, section: int, cid: bytes) -> bool:
        start = section + _width(car, section)
        return car[start : start + LENGTH] == cid

    def place(self, car: Buffer, cid: bytes) -> tuple[int, int] | None:
        """Start and end of the block of a CID; None where there is none. The first one counts."""
        table, mask = self._table, self._mask
        at = hash(cid) & mask
        while section := table[at]:
            length = car[section]
            start = section + 1
            if length > 127:
                high = car[start]
                length += (high << 7) - 128
                start += 1
                if high > 127:
                    length, start = _varint(car, section)
            if car[start : start + LENGTH] == cid:
                return start + LENGTH, start + length
            at = at + 1 & mask
        return None


def _varint(car: Buffer, position: int) -> tuple[int, int]:
    """The length of a section, and the position after it. Raises InvalidExport, and IndexError at the end."""
    value = shift = 0
    while True:
        byte = car[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 56:
            raise InvalidExport("car", f"no length of a section at byte {position:,}")


def _width(car: Buffer, section: int) -> int:
    return _varint(car, section)[1] - section


def _sections(car: Buffer, position: int, max_blocks: int) -> array[int]:
    """The positions of all sections that have a CID of DAG-CBOR; others (blobs, say) lead to nothing in a repository.

    Raises InvalidExport where sections don't end where the bytes do.
    """
    end = len(car)
    found = array("I" if end < 2**32 else "Q")
    append = found.append
    with suppress(IndexError):
        while position < end:
            section = position
            length = car[position]
            position += 1
            if length > 127:
                high = car[position]
                position += 1
                length += (high << 7) - 128
                if high > 127:
                    length, position = _varint(car, section)
            if car[position : position + 4] == DAG_CBOR and length >= LENGTH:
                append(section)
            elif length < 4:
                raise InvalidExport("car", f"the section at byte {section:,} is too short for a CID")
            position += length
        if position == end:
            if len(found) > max_blocks:
                raise InvalidExport("limit", f"{len(found):,} blocks; the limit is {max_blocks:,}")
            return found
    raise InvalidExport(
        "car", f"the last section ends {max(position - end, 1):,} bytes after the export: it is cut short"
    )


_HEIGHTS = bytes((8 - byte.bit_length()) // 2 for byte in range(256))
"""The height of a path by the first byte of its SHA-256, where that is not 0."""


def _walk(data: bytes, load: Callable[[bytes], bytes]) -> Iterator[tuple[str, bytes]]:
    """The paths of a tree and the CIDs of their records, in order, each node loaded when it is reached.

    It ends, because paths have to be in order and at their heights: no node with a path can come twice, and nodes
    without one, of which there may be a few above another, lead to one that has some.
    """
    # Nodes that are not read to their ends: the entries that are left, the path before them, the height.
    stack: list[tuple[Iterator[dict[str, Any]], bytes, int]] = []
    last = b""
    left, listed = _node(load(data))
    if not listed and left is not None:
        raise InvalidExport("tree", "the root of its tree has no paths but a subtree")
    height = height_of_key(_first_path(listed[0])) if listed else 0
    try:
        while True:
            entries, key = iter(listed), b""
            below = left
            while below is None:
                for entry in entries:
                    prefix = entry["p"]
                    if type(prefix) is not int or not 0 <= prefix <= len(key):
                        raise InvalidExport("tree", "a path in its tree has an impossible prefix length")
                    key = key[:prefix] + entry["k"]
                    if key <= last or len(key) > MAX_PATH or not key.isascii():
                        raise InvalidExport("tree", "paths of its tree are not in order, too long or not ASCII")
                    if (_HEIGHTS[first] if (first := sha256(key).digest()[0]) else height_of_key(key)) != height:
                        raise InvalidExport("tree", "a path of its tree is not at its height")
                    last = key
                    record = entry["v"]
                    if not is_dag_cbor(record):
                        raise InvalidExport("tree", "a path of its tree has no CID of a record")
                    yield key.decode("ascii"), record
                    below = entry["t"]
                    if below is not None:
                        break
                else:
                    if not stack:
                        return
                    entries, key, height = stack.pop()
            stack.append((entries, key, height))
            if not height:
                raise InvalidExport("tree", "its tree has a node below the lowest height")
            height -= 1
            left, listed = _node(load(below))
            if not listed and left is None:
                raise InvalidExport("tree", "its tree has an empty node below the root")
    except (KeyError, TypeError):
        raise _no_node() from None


def _first_path(entry: Any) -> bytes:
    try:
        key: bytes = b"" + entry["k"]
    except (KeyError, TypeError):
        raise _no_node() from None
    return key


def _no_node() -> InvalidExport:
    return InvalidExport("tree", "a block of its tree is not a node")


def _node(block: bytes) -> tuple[bytes | None, list[dict[str, Any]]]:
    """The left subtree and the entries of a node, of which only the outer shape is checked. Raises InvalidExport."""
    try:
        node = decode_dag_cbor(block)
    except (ValueError, RecursionError):
        raise _no_node() from None
    if type(node) is not dict or type(node.get("e")) is not list or "l" not in node:
        raise _no_node()
    return node["l"], node["e"]
