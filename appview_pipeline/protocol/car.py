"""CAR version 1 archives: the blocks of a commit or of a whole repository.

A CAR is a length-prefixed DAG-CBOR header `{version: 1, roots: [CID]}`, then sections of `varint(length) CID block`
(https://ipld.io/specs/transport/car/carv1/). `Blocks` is for commits, of which only few blocks are needed; `read_car`
and `iter_blocks` are for repository exports, where every block is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from appview_pipeline.protocol.cbor import decode_envelope
from appview_pipeline.protocol.cid import DAG_CBOR, LENGTH, RAW

# Every commit's CAR begins with these bytes, around the 36 of its only root.
_ONE_ROOT_HEAD = bytes.fromhex("3aa265726f6f747381d82a58250001711220")
_ONE_ROOT_TAIL = bytes.fromhex("6776657273696f6e01")
_ROOT_START = len(_ONE_ROOT_HEAD) - len(DAG_CBOR)
_ROOT_END = _ROOT_START + LENGTH
_ONE_ROOT_LENGTH = _ROOT_END + len(_ONE_ROOT_TAIL)

MAX_HEADER = 4096
"""Bytes of a header; 36 of them name a root, and more than one is already odd."""

Index = dict[bytes, tuple[int, int]]
"""Binary CID -> (start, end) of its block in the CAR."""


class InvalidCar(ValueError):
    """Bytes that are no CAR version 1; the message says where they stop being one."""


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned LEB128 integer of at most 5 bytes, and the position after it. InvalidCar if there is none."""
    value = shift = 0
    for byte in data[position : position + 5]:
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise InvalidCar(f"no section length at byte {position}")


def read_header(car: bytes) -> tuple[list[bytes], int]:
    """The roots, and the position of the first section. `car` may be cut off after the header. Raises InvalidCar."""
    if car.startswith(_ONE_ROOT_HEAD) and car[_ROOT_END:_ONE_ROOT_LENGTH] == _ONE_ROOT_TAIL:
        return [car[_ROOT_START:_ROOT_END]], _ONE_ROOT_LENGTH
    length, start = _varint(car, 0)
    end = start + length
    if length > MAX_HEADER or end > len(car):
        raise InvalidCar("header longer than the CAR or than 4,096 bytes")
    try:
        header = decode_envelope(car[start:end])
    except ValueError as error:
        raise InvalidCar(f"header is not DAG-CBOR: {error}") from None
    if not isinstance(header, dict) or header.get("version") != 1:
        raise InvalidCar("header is not of a CAR version 1")
    roots = header.get("roots")
    if not isinstance(roots, list) or not all(isinstance(root, bytes) for root in roots):
        raise InvalidCar("header without a list of roots")
    return roots, end


def index_blocks(car: bytes) -> tuple[list[bytes], Index]:
    """The roots of a CAR and where its blocks are, without reading the blocks.

    Neither hashes nor kinds of CIDs are checked: an entry may be looked up only by a CID that is known to be one of
    ours, and the block found there must be hashed before it is used. Raises InvalidCar when the sections don't end
    where the bytes do.
    """
    roots, position = read_header(car)
    index: Index = {}
    end = len(car)
    try:
        while position < end:
            length = car[position]
            if length < 128:
                position += 1
            elif (high := car[position + 1]) < 128:
                length += (high << 7) - 128
                position += 2
            else:
                length, position = _varint(car, position)
            cid = car[position : position + LENGTH]
            index[cid] = (position + LENGTH, position := position + length)
    except IndexError:
        raise InvalidCar("ends within a section length") from None
    if position != end:
        raise InvalidCar(f"last section ends {position - end} bytes after the CAR")
    return roots, index


class Blocks:
    """The blocks of a CAR by CID, each hash-checked when it is asked for; no other block is read.

    The hash identifies a block, so its place may be guessed: the last occurrence of the CID (tree nodes hold it too,
    but come first) is taken for the start of its section, which saves the walk through the sections. Only when the
    hash does not match are the sections walked, once. `roots` are the header's. Raises InvalidCar if there is no
    header; damaged sections only show as missing blocks.
    """

    __slots__ = ("_car", "_damage", "_index", "roots")

    def __init__(self, car: bytes) -> None:
        self.roots = read_header(car)[0]
        self._car = car
        self._index: Index | None = None
        self._damage: str | None = None

    def get(self, cid: bytes) -> bytes | None:
        """The block of a CID; None when there is none or its bytes don't hash to the CID (`absence` says which)."""
        car = self._car
        at = car.rfind(cid)
        if at > 1 and (last := car[at - 1]) < 128:
            before = car[at - 2]
            end = at + (before & 127 | last << 7) if before > 127 else at + last
            block = car[at + LENGTH : end]
            if sha256(block).digest() == cid[4:]:
                return block
        if at < 0:
            return None
        try:
            place = self._places().get(cid)
        except InvalidCar:
            return None
        block = car[place[0] : place[1]] if place else b""
        return block if place and sha256(block).digest() == cid[4:] else None

    def get_of_many(self, cid: bytes) -> bytes | None:
        """The same, where many blocks of a CAR that may be large are asked for: its sections are walked first."""
        try:
            place = self._places().get(cid)
        except InvalidCar:
            return self.get(cid)
        block = self._car[place[0] : place[1]] if place else b""
        return block if place and sha256(block).digest() == cid[4:] else self.get(cid)

    def _places(self) -> Index:
        if self._damage is not None:
            raise InvalidCar(self._damage)  # a large CAR is not walked for each of its blocks
        if self._index is None:
            try:
                self._index = index_blocks(self._car)[1]
            except InvalidCar as error:
                self._damage = str(error)
                raise
        return self._index

    def absence(self, cid: bytes) -> tuple[str, bytes | None]:
        """Why `get` gives None for a CID, in words, and the bytes in the block's place, if any."""
        try:
            place = self._places().get(cid)
        except InvalidCar as error:
            return f"block was not found in a damaged CAR: {error}", None
        if place is None:
            return "block is missing", None
        return "block does not hash to its CID", self._car[place[0] : place[1]]


def iter_blocks(car: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every (CID, block) of a CAR in its order, each checked: kind of CID and hash. Raises InvalidCar."""
    _, position = read_header(car)
    end = len(car)
    while position < end:
        length, position = _varint(car, position)
        start, stop = position + LENGTH, position + length
        if stop > end or start > stop:
            raise InvalidCar(f"section at byte {position} is cut off")
        cid = car[position:start]
        if cid[:4] not in (DAG_CBOR, RAW):
            raise InvalidCar(f"section at byte {position} has a CID that is not CIDv1 with SHA-256")
        block = car[start:stop]
        if sha256(block).digest() != cid[4:]:
            raise InvalidCar(f"block at byte {start} does not hash to its CID")
        yield cid, block
        position = stop


def read_car(car: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The roots and all blocks of a CAR (a repository export), each hash-checked. Raises InvalidCar."""
    return read_header(car)[0], dict(iter_blocks(car))


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def write_car(root: bytes, blocks: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bytes:
    """A CAR with one root; `blocks` are CID -> block or pairs of them, written in the order given."""
    pairs = blocks.items() if isinstance(blocks, Mapping) else blocks
    parts = [_ONE_ROOT_HEAD[:_ROOT_START], root, _ONE_ROOT_TAIL]
    for cid, block in pairs:
        parts += (_encode_varint(len(cid) + len(block)), cid, block)
    return b"".join(parts)
