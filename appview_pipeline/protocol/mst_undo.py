"""Undoing the one operation of a commit on the bytes of the tree's nodes: what nine of ten commits need.

`mst_proof.invert` makes nodes of blocks and blocks of what it changes, for any number of operations. With a single one,
all that changes is an entry of one node and the link to it in each node above. So the blocks are edited as they are,
which takes less than half of the time. Whatever is unusual is left to `invert`: `undo` then gives None, which says
nothing about the commit. What it accepts, `invert` accepts: it reads only nodes in the form in which `invert` would
encode them, and checks of them what `invert` checks.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from hashlib import sha256
from typing import Any

from libipld import decode_dag_cbor, encode_dag_cbor

from appview_pipeline.protocol.cid import DAG_CBOR
from appview_pipeline.protocol.mst_node import MAX_PATH, Load, common_prefix, height_of_key

_LINK = re.escape(b"\xd8\x2a\x58\x25\x00" + DAG_CBOR) + rb".{32}"
# A node as canonical DAG-CBOR: {e: [{k: rest of the key, p: length of its prefix, t: tree to its right, v: value}], l:
# left tree}, with keys of visible characters. Whether the lengths are right, decoding sees.
_is_canonical = re.compile(
    rb"\xa2ae(?:[\x80-\x97]|\x98[\x18-\xff]|\x99[\x01-\xff].)"
    rb"(?:\xa4ak(?:[\x41-\x57]|\x58[\x18-\xff]|\x59[\x01-\x04].)[!-~]+"
    rb"ap(?:[\x00-\x17]|\x18[\x18-\xff]|\x19[\x01-\x04].)at(?:\xf6|" + _LINK + rb")av" + _LINK + rb")*"
    rb"al(?:\xf6|" + _LINK + rb")",
    re.DOTALL,
).fullmatch

_is_visible = re.compile(rb"[!-~]+").fullmatch

_Entry = dict[str, Any]
_Above = tuple[bytes, list[_Entry], bytes | None, int, bytes]
"""A node on the way: its block, entries and left tree, before which entry the way goes on, and the CID of that tree."""


class _Unusual(Exception):
    """Left to `invert`."""


def undo(data: bytes, path: str, cid: bytes | None, prev: bytes | None, load: Load) -> bytes | None:
    """The CID of the tree before the only operation of a commit, whose tree is `data` now.

    `cid`, `prev`: the CIDs of the record after and before it, one of which may be None, as in `mst_proof.TreeOp`. None
    where `invert` has to decide, also where it would find that the operation does not fit the tree.
    """
    try:
        return _undo(data, path.encode("ascii"), cid, prev, load)
    except (_Unusual, ValueError, IndexError, KeyError, TypeError):
        return None


def _read(block: bytes | None, keys: list[bytes]) -> tuple[list[_Entry], bytes | None]:
    """The entries and the left tree of a node, whose keys are added to `keys`. Raises whatever `undo` catches."""
    if block is None or _is_canonical(block) is None:
        raise _Unusual
    node = decode_dag_cbor(block)
    entries: list[_Entry] = node["e"]
    key, length = b"", 0
    for entry in entries:
        shared, rest = entry["p"], entry["k"]
        # Behind the longest common prefix a key is greater than the one before: keys are in order.
        if shared < length:
            if rest[0] <= key[shared] or shared < 0:
                raise _Unusual
        elif shared > length:
            raise _Unusual
        key = key[:shared] + rest
        length = len(key)
        keys.append(key)
    if not entries:
        if node["l"] is None:
            raise _Unusual
        return entries, node["l"]
    together = b"".join(keys)
    # Keys that are not ASCII are not those that `_is_canonical` has seen.
    if not together.isascii() or (len(together) > MAX_PATH and max(map(len, keys)) > MAX_PATH):
        raise _Unusual
    return entries, node["l"]


def _undo(data: bytes, path: bytes, cid: bytes | None, prev: bytes | None, load: Load) -> bytes:
    target = height_of_key(path)
    node, height = data, -1
    above: list[_Above] = []  # from the root down
    while True:
        block = load(node)
        keys: list[bytes] = []
        entries, left = _read(block, keys)
        if height < 0:
            height = height_of_key(keys[0])
        place = bisect_left(keys, path)
        below = entries[place - 1]["t"] if place else left
        if height <= target or below is None:
            break
        assert block is not None
        above.append((block, entries, left, place, below))
        node, height = below, height - 1
    changed: bytes | None
    if cid is not None:
        if height != target or place == len(keys) or keys[place] != path or entries[place]["v"] != cid:
            raise _Unusual
        if prev is not None:
            if prev == cid:
                raise _Unusual
            entries[place]["v"] = prev
        else:
            below = _merge(below, entries[place]["t"], height - 1, load)
            _remove(entries, keys, place)
            if not entries and not above:
                raise _Unusual  # the tree gets another root
            left = _set_tree(entries, left, place, below)
    else:
        if height < target or (place < len(keys) and keys[place] == path) or prev is None or not _is_visible(path):
            raise _Unusual
        if height == target:
            below, right = (None, None) if below is None else _split(below, path, height - 1, load)
            _insert(entries, keys, place, path, prev, right)
        else:
            below = _node([{"k": path, "p": 0, "t": None, "v": prev}], None)
            for _ in range(target + 1, height):
                below = _node([], below)
        left = _set_tree(entries, left, place, below)
    changed = _node(entries, left)
    for block, entries, left, place, link in reversed(above):
        if changed is not None and block.count(link) == 1:
            changed = DAG_CBOR + sha256(block.replace(link, changed)).digest()
        else:
            changed = _node(entries, _set_tree(entries, left, place, changed))
    if changed is None:
        raise _Unusual
    return changed


def _node(entries: list[_Entry], left: bytes | None) -> bytes | None:
    """The CID of a node; None of one that holds nothing."""
    if not entries and left is None:
        return None
    return DAG_CBOR + sha256(encode_dag_cbor({"e": entries, "l": left})).digest()


def _set_tree(entries: list[_Entry], left: bytes | None, place: int, tree: bytes | None) -> bytes | None:
    """Puts a tree before the entry at `place`. Returns the node's left tree."""
    if not place:
        return tree
    entries[place - 1]["t"] = tree
    return left


def _set_key(entry: _Entry, key: bytes, shared: int) -> None:
    entry["p"], entry["k"] = shared, key[shared:]


def _insert(
    entries: list[_Entry], keys: list[bytes], place: int, path: bytes, value: bytes, tree: bytes | None
) -> None:
    """Puts an entry in, with the tree to its right."""
    if place < len(entries):
        _set_key(entries[place], keys[place], common_prefix(path, keys[place]))
    made: _Entry = {"t": tree, "v": value}
    _set_key(made, path, common_prefix(keys[place - 1], path) if place else 0)
    entries.insert(place, made)


def _remove(entries: list[_Entry], keys: list[bytes], place: int) -> None:
    """Takes an entry out."""
    if place + 1 < len(entries):
        # Of three keys in order the outer two share what both share with the middle one.
        following = entries[place + 1]
        _set_key(following, keys[place + 1], min(entries[place]["p"], following["p"]))
    del entries[place]


def _merge(left: bytes | None, right: bytes | None, height: int, load: Load) -> bytes | None:
    """One tree of two neighbours; `height` is theirs."""
    if left is None or right is None:
        return right if left is None else left
    if height < 0:
        raise _Unusual
    keys: list[bytes] = []
    entries, first = _read(load(left), keys)
    place = len(keys)
    more, middle = _read(load(right), keys)
    before = entries[-1]["t"] if entries else first
    first = _set_tree(entries, first, place, _merge(before, middle, height - 1, load))
    if entries and more:
        if keys[place] <= keys[place - 1]:
            raise _Unusual
        _set_key(more[0], keys[place], common_prefix(keys[place - 1], keys[place]))
    return _node(entries + more, first)


def _split(tree: bytes, path: bytes, height: int, load: Load) -> tuple[bytes | None, bytes | None]:
    """What of a tree is left and right of a path that it does not hold; `height` is the tree's."""
    if height < 0:
        raise _Unusual
    keys: list[bytes] = []
    entries, first = _read(load(tree), keys)
    place = bisect_left(keys, path)
    if place < len(keys) and keys[place] == path:
        raise _Unusual
    below = entries[place - 1]["t"] if place else first
    before, after = (None, None) if below is None else _split(below, path, height - 1, load)
    first = _set_tree(entries, first, place, before)
    if place < len(entries):
        _set_key(entries[place], keys[place], 0)
    return _node(entries[:place], first), _node(entries[place:], after)
