"""Nodes of the Merkle search tree of a repository, and their blocks.

A repository maps paths (`collection/rkey`) to the CIDs of records. The tree's shape follows from the paths alone: a
path's height is half the number of leading zero bits of its SHA-256, a node holds the paths of one height between two
higher ones, and between them the subtrees of the next height down
(https://atproto.com/specs/repository#mst-structure). A commit names the CID of the root.

A tree is a `Node` or the CID (36 bytes) of one that isn't loaded. Nodes are never changed: an edit makes new ones along
one path and shares the rest (`mst.py`). Functions that may have to look below a CID take `load`, which gives the block
of a CID or None; a node that can't be loaded is MissingNode. So the same functions work on a whole tree in memory (the
simulated network), on an export, and on the few nodes that a commit brings along to prove itself (`mst_proof.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from libipld import decode_dag_cbor

from appview_pipeline.protocol.cid import cid_for_cbor, is_dag_cbor

MAX_PATH = 1024
"""Bytes of a path."""

Load = Callable[[bytes], bytes | None]
"""CID -> block, or None where there is none. It must check hashes if the blocks come from elsewhere."""


class InvalidTree(ValueError):
    """Blocks that are no Merkle search tree, or operations that don't fit one. The message is the reason in words."""


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

    @property
    def is_new(self) -> bool:
        """Whether an edit made it and its CID has not been asked for yet."""
        return self._cid is None


Tree = Node | bytes

EMPTY = Node(0, (), (), (None,))
"""The tree of a repository without records."""


def root_cid(tree: Tree) -> bytes:
    """The CID of a tree, which is what a commit calls `data`."""
    return tree if isinstance(tree, bytes) else tree.cid


def height_of(path: str) -> int:
    """The height of a path in the tree."""
    return height_of_key(path.encode())


def height_of_key(key: bytes) -> int:
    """The height of a path given as bytes."""
    return (256 - int.from_bytes(sha256(key).digest(), "big").bit_length()) >> 1


def no_blocks(cid: bytes) -> bytes | None:
    """The `load` of trees that are in memory as a whole."""
    return None


def _length(major: int, length: int) -> bytes:
    if length < 24:
        return bytes((major | length,))
    if length < 256:
        return bytes((major | 24, length))
    return bytes((major | 25,)) + length.to_bytes(2, "big")


def common_prefix(left: bytes, right: bytes) -> int:
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
        prefix = common_prefix(previous, key)
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
        height = height_of_key(keys[0]) if keys else 0
    if not keys and left is None and height:
        raise InvalidTree("an empty node below the root")
    return Node(height, tuple(keys), tuple(values), tuple(trees))


def decode_node(cid: bytes, block: bytes, height: int | None) -> Node:
    """The node of a block; `height` is None for a root, whose keys have it. Raises InvalidTree."""
    node = _decode(block, height)
    node._block, node._cid = block, cid
    return node


def as_root(tree: Tree, load: Load) -> Node:
    """The root of a tree, loaded if need be; its subtrees are left as they are. Raises MissingNode, InvalidTree."""
    if isinstance(tree, Node):
        return tree
    block = load(tree)
    if block is None:
        raise MissingNode(tree)
    return decode_node(tree, block, None)


def as_node(tree: Tree, height: int, load: Load) -> Node:
    """A subtree that should be of a height as a node, loaded if need be. Raises MissingNode, InvalidTree."""
    if isinstance(tree, Node):
        return tree
    if height < 0:
        raise InvalidTree("a subtree below the lowest height")
    block = load(tree)
    if block is None:
        raise MissingNode(tree)
    return decode_node(tree, block, height)
