"""The Merkle search tree of a repository, as pure functions on persistent nodes.

A repository maps paths (`collection/rkey`) to the CIDs of records. The tree's shape follows from the paths alone: a
path's height is half the number of leading zero bits of its SHA-256, a node holds the paths of one height between two
higher ones, and between them the subtrees of the next height down
(https://atproto.com/specs/repository#mst-structure). A commit names the CID of the root.

A tree here is a `Node` or the CID (36 bytes) of one that isn't loaded; nodes are never changed, an edit makes new ones
along one path and shares the rest. Functions that may have to look below a CID take `load`, which gives the block of a
CID or None; what can't be loaded is MissingNode. So the same functions work on a whole tree in memory (the simulated
network), on an export, and on the few nodes that a commit brings along to prove itself (`invert`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

from libipld import decode_dag_cbor

from appview_pipeline.protocol.cid import cid_for_cbor, is_dag_cbor

MAX_PATH = 1024
"""Bytes of a path."""

Load = Callable[[bytes], bytes | None]
"""CID -> block, or None where there is none. It must check hashes if the blocks come from elsewhere."""


class InvalidTree(ValueError):
    """Blocks that are no Merkle search tree, or operations that don't fit one; the message is the reason in words."""


class MissingNode(InvalidTree):
    """A node that is needed can't be loaded: a proof that proves too little, an export that lacks a block."""

    def __init__(self, cid: bytes) -> None:
        super().__init__("a node of the tree is missing")
        self.cid = cid


class Node:
    """A node: n `keys` (paths as bytes) in order, their n `values` (CIDs of records), and n + 1 `trees` around them,
    each a node, a CID or None. All keys have the node's `height`; its trees are one lower."""

    __slots__ = ("_block", "_cid", "height", "keys", "trees", "values")

    def __init__(
        self, height: int, keys: tuple[bytes, ...], values: tuple[bytes, ...], trees: tuple[Tree | None, ...]
    ) -> None:
        self.height = height
        self.keys = keys
        self.values = values
        self.trees = trees
        self._cid: bytes | None = None
        self._block: bytes | None = None

    @property
    def block(self) -> bytes:
        """The node as DAG-CBOR."""
        if self._block is None:
            self._block = _encode(self)
        return self._block

    @property
    def cid(self) -> bytes:
        """The CID of the block."""
        if self._cid is None:
            self._cid = cid_for_cbor(self.block)
        return self._cid


Tree = Node | bytes

EMPTY = Node(0, (), (), (None,))
"""The tree of a repository without records."""


def root_cid(tree: Tree) -> bytes:
    """The CID of a tree, which is what a commit calls `data`."""
    return tree if isinstance(tree, bytes) else tree.cid


def height_of(path: str) -> int:
    """The height of a path in the tree."""
    return _height(path.encode())


def _height(key: bytes) -> int:
    return (256 - int.from_bytes(sha256(key).digest(), "big").bit_length()) >> 1


def _nothing(cid: bytes) -> bytes | None:
    """The `load` of trees that are in memory as a whole."""
    return None


# --- blocks ----------------------------------------------------------------------------------------------------------


def _length(major: int, length: int) -> bytes:
    if length < 24:
        return bytes((major | length,))
    if length < 256:
        return bytes((major | 24, length))
    return bytes((major | 25,)) + length.to_bytes(2, "big")


def _common(left: bytes, right: bytes) -> int:
    """How many bytes two keys have in common at their start."""
    shorter = min(len(left), len(right))
    difference = int.from_bytes(left[:shorter], "big") ^ int.from_bytes(right[:shorter], "big")
    return shorter - (difference.bit_length() + 7 >> 3)


_LINK = b"\xd8\x2a\x58\x25\x00"
_NULL = b"\xf6"


def _encode(node: Node) -> bytes:
    """DAG-CBOR of `{l: left tree, e: [{p: prefix length, k: rest of the key, v: value, t: tree to its right}]}`."""
    trees = [_NULL if tree is None else _LINK + root_cid(tree) for tree in node.trees]
    parts = [b"\xa2\x61e", _length(0x80, len(node.keys))]
    previous = b""
    for key, value, tree in zip(node.keys, node.values, trees[1:], strict=True):
        prefix = _common(previous, key)
        previous = key
        parts += (
            b"\xa4\x61k",
            _length(0x40, len(key) - prefix),
            key[prefix:],
            b"\x61p",
            _length(0, prefix),
            b"\x61t",
            tree,
            b"\x61v" + _LINK,
            value,
        )
    parts += (b"\x61l", trees[0])
    return b"".join(parts)


def _decode(block: bytes, height: int | None) -> Node:
    """The node of a block; `height` is None for a root, whose keys tell it. Raises InvalidTree."""
    try:
        node = decode_dag_cbor(block)
        left, entries = node["l"], node["e"]
        keys: list[bytes] = []
        values: list[bytes] = []
        trees: list[Tree | None] = [left]
        previous = b""
        for entry in entries:
            prefix = entry["p"]
            if type(prefix) is not int or not 0 <= prefix <= len(previous):
                raise InvalidTree("a node's key has an impossible prefix length")
            key = previous[:prefix] + entry["k"]
            if key <= previous or len(key) > MAX_PATH:
                raise InvalidTree("a node's keys are not in order, empty or too long")
            keys.append(key)
            values.append(entry["v"])
            trees.append(entry["t"])
            previous = key
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        if isinstance(error, InvalidTree):
            raise
        raise InvalidTree("a block of the tree is not a node") from None
    if not all(map(is_dag_cbor, values)) or not all(tree is None or is_dag_cbor(tree) for tree in trees):
        raise InvalidTree("a node has a link that is no CID of DAG-CBOR")
    if height is None:
        if not keys and left is not None:
            raise InvalidTree("the root has no keys but a subtree")
        height = _height(keys[0]) if keys else 0
    if not keys and left is None and height:
        raise InvalidTree("an empty node below the root")
    return Node(height, tuple(keys), tuple(values), tuple(trees))


def _loaded(cid: bytes, block: bytes, height: int | None) -> Node:
    node = _decode(block, height)
    node._block, node._cid = block, cid
    return node


def load_root(cid: bytes, load: Load) -> Node:
    """The root of a tree, its subtrees left as CIDs. Raises MissingNode, InvalidTree."""
    block = load(cid)
    if block is None:
        raise MissingNode(cid)
    return _loaded(cid, block, None)


def _node(tree: Tree, height: int, load: Load) -> Node:
    """A subtree that should be of a height as a node."""
    if isinstance(tree, Node):
        return tree
    if height < 0:
        raise InvalidTree("a subtree below the lowest height")
    block = load(tree)
    if block is None:
        raise MissingNode(tree)
    return _loaded(tree, block, height)


# --- reading ---------------------------------------------------------------------------------------------------------


def get(tree: Tree, path: str, load: Load = _nothing) -> bytes | None:
    """The CID of the record at a path, None if there is none. Raises MissingNode, InvalidTree."""
    key = path.encode()
    node = load_root(tree, load) if isinstance(tree, bytes) else tree
    while True:
        place = bisect_left(node.keys, key)
        if place < len(node.keys) and node.keys[place] == key:
            return node.values[place]
        below = node.trees[place]
        if below is None:
            return None
        node = _node(below, node.height - 1, load)


def walk(tree: Tree, load: Load = _nothing) -> Iterator[tuple[str, bytes]]:
    """Every (path, CID of its record) of a whole tree, in the order of paths.

    With `load` of a repository export, `walk(data, blocks.get)` lists the repository. Raises MissingNode at a hole, and
    InvalidTree where paths are not ASCII, not in order or not at their height.
    """
    root = load_root(tree, load) if isinstance(tree, bytes) else tree
    previous = b""
    stack: list[tuple[Node, int]] = [(root, 0)]
    while stack:
        node, place = stack.pop()
        if place:
            key = node.keys[place - 1]
            if key <= previous or not key.isascii():
                raise InvalidTree("paths are not in order or not ASCII")
            if _height(key) != node.height:
                raise InvalidTree("a path is not at its height")
            previous = key
            yield key.decode("ascii"), node.values[place - 1]
        if place < len(node.keys):
            stack.append((node, place + 1))
        below = node.trees[place]
        if below is not None:
            stack.append((_node(below, node.height - 1, load), 0))


def blocks(tree: Tree, load: Load = _nothing) -> Iterator[tuple[bytes, bytes]]:
    """Every (CID, block) of a whole tree, a node before those below it. Raises MissingNode, InvalidTree."""
    stack = [load_root(tree, load) if isinstance(tree, bytes) else tree]
    while stack:
        node = stack.pop()
        yield node.cid, node.block
        stack.extend(_node(below, node.height - 1, load) for below in reversed(node.trees) if below is not None)


def new_blocks(tree: Node) -> dict[bytes, bytes]:
    """CID -> block of the nodes that were made since `root_cid` was last asked of the tree they were made from: what a
    commit adds. Afterwards nothing is new any more."""
    made: list[Node] = []
    stack: list[Tree | None] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node._cid is None:
            made.append(node)
            stack.extend(node.trees)
    return {node.cid: node.block for node in made}


# --- editing ---------------------------------------------------------------------------------------------------------


def build(records: Mapping[str, bytes]) -> Node:
    """The tree of a whole repository: path -> CID of the record."""
    entries = sorted((path.encode(), cid) for path, cid in records.items())
    if not entries:
        return EMPTY
    heights = [_height(key) for key, _ in entries]
    top = max(heights)

    def subtree(start: int, stop: int, height: int) -> Node | None:
        if start == stop:
            return None
        places = [place for place in range(start, stop) if heights[place] == height]
        bounds = [start - 1, *places, stop]
        trees = tuple(subtree(low + 1, high, height - 1) for low, high in pairwise(bounds))
        return Node(height, tuple(entries[at][0] for at in places), tuple(entries[at][1] for at in places), trees)

    root = subtree(0, len(entries), top)
    assert root is not None
    return root


def put(tree: Tree, path: str, cid: bytes, load: Load = _nothing) -> tuple[Tree, bytes | None]:
    """The tree with a record created or replaced, and the CID that was there before.

    Raises MissingNode, InvalidTree.
    """
    key = path.encode()
    height = _height(key)
    root = load_root(tree, load) if isinstance(tree, bytes) else tree
    if not root.keys and root.trees == (None,):
        return Node(height, (key,), (cid,), (None, None)), None
    if height > root.height:
        left, right = _split(root, key, load)
        return Node(height, (key,), (cid,), (_lift(left, height - 1), _lift(right, height - 1))), None
    return _put(root, key, cid, height, load)


def _lift(node: Node | None, height: int) -> Node | None:
    """A subtree under as many keyless nodes as bring it to a height."""
    while node is not None and node.height < height:
        node = Node(node.height + 1, (), (), (node,))
    return node


def _put(node: Node, key: bytes, cid: bytes, height: int, load: Load) -> tuple[Node, bytes | None]:
    place = bisect_left(node.keys, key)
    keys, values, trees = node.keys, node.values, node.trees
    below = trees[place]
    if node.height > height:
        if below is None:
            made = _lift(Node(height, (key,), (cid,), (None, None)), node.height - 1)
            return Node(node.height, keys, values, (*trees[:place], made, *trees[place + 1 :])), None
        changed, before = _put(_node(below, node.height - 1, load), key, cid, height, load)
        return Node(node.height, keys, values, (*trees[:place], changed, *trees[place + 1 :])), before
    if place < len(keys) and keys[place] == key:
        return Node(height, keys, (*values[:place], cid, *values[place + 1 :]), trees), values[place]
    left, right = (None, None) if below is None else _split(_node(below, height - 1, load), key, load)
    return (
        Node(
            height,
            (*keys[:place], key, *keys[place:]),
            (*values[:place], cid, *values[place:]),
            (*trees[:place], left, right, *trees[place + 1 :]),
        ),
        None,
    )


def _split(node: Node, key: bytes, load: Load) -> tuple[Node | None, Node | None]:
    """What of a subtree is left and right of a key that it doesn't hold."""
    place = bisect_left(node.keys, key)
    below = node.trees[place]
    left, right = (None, None) if below is None else _split(_node(below, node.height - 1, load), key, load)
    return (
        _unless_empty(node.height, node.keys[:place], node.values[:place], (*node.trees[:place], left)),
        _unless_empty(node.height, node.keys[place:], node.values[place:], (right, *node.trees[place + 1 :])),
    )


def _unless_empty(
    height: int, keys: tuple[bytes, ...], values: tuple[bytes, ...], trees: tuple[Tree | None, ...]
) -> Node | None:
    return Node(height, keys, values, trees) if keys or trees[0] is not None else None


def remove(tree: Tree, path: str, load: Load = _nothing) -> tuple[Tree, bytes | None]:
    """The tree without a record, and the CID that it had; the same tree and None if there was none.

    The result can be a CID: where all that is left is one subtree that was never loaded, that is the new root. Raises
    MissingNode, InvalidTree.
    """
    key = path.encode()
    root = load_root(tree, load) if isinstance(tree, bytes) else tree
    result, before = _remove(root, key, _height(key), load)
    if before is None:
        return root, None
    return _trim(result, load), before


def _trim(node: Node | None, load: Load) -> Tree:
    """The root of a tree whose top nodes may have lost their keys."""
    while node is not None and not node.keys:
        below = node.trees[0]
        if isinstance(below, bytes):
            block = load(below)
            if block is None:
                return below
            below = _loaded(below, block, node.height - 1)
        node = below
    return EMPTY if node is None else node


def _remove(node: Node, key: bytes, height: int, load: Load) -> tuple[Node | None, bytes | None]:
    if node.height < height:
        return node, None
    place = bisect_left(node.keys, key)
    keys, values, trees = node.keys, node.values, node.trees
    if node.height > height:
        below = trees[place]
        if below is None:
            return node, None
        changed, before = _remove(_node(below, node.height - 1, load), key, height, load)
        if before is None:
            return node, None
        return _unless_empty(node.height, keys, values, (*trees[:place], changed, *trees[place + 1 :])), before
    if place == len(keys) or keys[place] != key:
        return node, None
    merged = _merge(trees[place], trees[place + 1], height - 1, load)
    return (
        _unless_empty(
            height,
            keys[:place] + keys[place + 1 :],
            values[:place] + values[place + 1 :],
            (*trees[:place], merged, *trees[place + 2 :]),
        ),
        values[place],
    )


def _merge(left: Tree | None, right: Tree | None, height: int, load: Load) -> Tree | None:
    """One subtree of two neighbours."""
    if left is None or right is None:
        return right if left is None else left
    left, right = _node(left, height, load), _node(right, height, load)
    middle = _merge(left.trees[-1], right.trees[0], height - 1, load)
    return Node(
        height,
        left.keys + right.keys,
        left.values + right.values,
        (*left.trees[:-1], middle, *right.trees[1:]),
    )


# --- proofs ----------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What a commit says it did at a path: CIDs of the record after (None: deleted) and before (None: created)."""

    path: str
    cid: bytes | None
    prev: bytes | None


def invert(tree: Tree, changes: Iterable[Change], load: Load = _nothing) -> Tree:
    """The tree as it was before a commit: every change undone (https://atproto.com/specs/sync#commit-validation).

    Each change must fit the tree: what was created or updated is there with its CID, what was deleted is not. The root
    of the result must then be the commit's `prevData`. Raises InvalidTree where a change does not fit, MissingNode
    where the nodes that `load` has don't suffice.
    """
    # Putting deleted records back before taking created ones out is the order for which servers choose their nodes.
    pending = sorted(changes, key=lambda change: (change.cid is not None, change.path))
    if len({change.path for change in pending}) < len(pending):
        raise InvalidTree("two operations on one path")
    missing: MissingNode | None = None
    for _ in range(_MAX_ROUNDS):
        postponed = []
        for change in pending:
            try:
                tree = _undo(tree, change, load)
            except MissingNode as error:
                missing = error
                postponed.append(change)
        if not postponed:
            return tree
        if len(postponed) == len(pending):
            break
        pending = postponed
    assert missing is not None
    raise missing


# Another server's order can bring fewer nodes along than ours needs; what fails is tried again after the others. Real
# proofs take one round; the limit keeps a hostile one from costing 200 rounds of 200 operations.
_MAX_ROUNDS = 4


def _undo(tree: Tree, change: Change, load: Load) -> Tree:
    path, cid, prev = change
    if prev is not None:
        if prev == cid:
            raise InvalidTree(f"the update of {path} changes nothing")
        before, found = put(tree, path, prev, load)
    elif cid is not None:
        before, found = remove(tree, path, load)
    else:
        raise InvalidTree(f"the deletion of {path} does not say what it deleted")
    if found != cid:
        raise InvalidTree(f"the tree has another record at {path} than the operation")
    return before


def covering_proof(tree: Tree, paths: Iterable[str], load: Load = _nothing) -> dict[bytes, bytes]:
    """CID -> block of the nodes that a commit brings along so that its changes at `paths` can be inverted: those on the
    way to each path and to its neighbours on both sides. Raises MissingNode, InvalidTree."""
    root = load_root(tree, load) if isinstance(tree, bytes) else tree
    found: dict[bytes, bytes] = {root.cid: root.block}
    for path in paths:
        key = path.encode()
        node: Node | None = root
        while node is not None:
            found[node.cid] = node.block
            place = bisect_left(node.keys, key)
            if place < len(node.keys) and node.keys[place] == key:
                _edge(node.trees[place], node.height - 1, -1, load, found)
                _edge(node.trees[place + 1], node.height - 1, 0, load, found)
                break
            below = node.trees[place]
            node = None if below is None else _node(below, node.height - 1, load)
    return found


def _edge(tree: Tree | None, height: int, side: int, load: Load, found: dict[bytes, bytes]) -> None:
    """Adds the nodes down the left (side 0) or right (side -1) edge of a subtree."""
    while tree is not None:
        node = _node(tree, height, load)
        found[node.cid] = node.block
        tree, height = node.trees[side], height - 1
