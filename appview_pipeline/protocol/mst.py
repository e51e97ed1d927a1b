"""The Merkle search tree of a repository: reading and editing it, as pure functions on the nodes of `mst_node.py`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import pairwise

from appview_pipeline.protocol.mst_node import (
    EMPTY,
    InvalidTree,
    Load,
    Node,
    Tree,
    as_node,
    as_root,
    decode_node,
    height_of_key,
    no_blocks,
)

# --- reading ---------------------------------------------------------------------------------------------------------


def get(tree: Tree, path: str, load: Load = no_blocks) -> bytes | None:
    """The CID of the record at a path, None if there is none. Raises MissingNode, InvalidTree."""
    key = path.encode()
    node = as_root(tree, load)
    while True:
        place = bisect_left(node.keys, key)
        if place < len(node.keys) and node.keys[place] == key:
            return node.values[place]
        below = node.trees[place]
        if below is None:
            return None
        node = as_node(below, node.height - 1, load)


def walk(tree: Tree, load: Load = no_blocks) -> Iterator[tuple[str, bytes]]:
    """Every (path, CID of its record) of a whole tree, in the order of paths.

    With `load` of a repository export, `walk(data, blocks.get)` lists the repository. Raises MissingNode at a hole, and
    InvalidTree where paths are not ASCII, not in order or not at their height.
    """
    root = as_root(tree, load)
    previous = b""
    stack: list[tuple[Node, int]] = [(root, 0)]
    while stack:
        node, place = stack.pop()
        if place:
            key = node.keys[place - 1]
            if key <= previous or not key.isascii():
                raise InvalidTree("paths are not in order or not ASCII")
            if height_of_key(key) != node.height:
                raise InvalidTree("a path is not at its height")
            previous = key
            yield key.decode("ascii"), node.values[place - 1]
        if place < len(node.keys):
            stack.append((node, place + 1))
        below = node.trees[place]
        if below is not None:
            stack.append((as_node(below, node.height - 1, load), 0))


def blocks(tree: Tree, load: Load = no_blocks) -> Iterator[tuple[bytes, bytes]]:
    """Every (CID, block) of a whole tree, a node before those below it. Raises MissingNode, InvalidTree."""
    stack = [as_root(tree, load)]
    while stack:
        node = stack.pop()
        yield node.cid, node.block
        stack.extend(as_node(below, node.height - 1, load) for below in reversed(node.trees) if below is not None)


def new_blocks(tree: Node) -> dict[bytes, bytes]:
    """CID -> block of the nodes that edits have made and that have no CID yet: the blocks that a commit adds. Gives
    them their CIDs, so that no node is new afterwards."""
    made: list[Node] = []
    stack: list[Tree | None] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node.is_new:
            made.append(node)
            stack.extend(node.trees)
    return {node.cid: node.block for node in made}


# --- editing ---------------------------------------------------------------------------------------------------------


def build(records: Mapping[str, bytes]) -> Node:
    """The tree of a whole repository: path -> CID of the record."""
    entries = sorted((path.encode(), cid) for path, cid in records.items())
    if not entries:
        return EMPTY
    heights = [height_of_key(key) for key, _ in entries]
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


def put(tree: Tree, path: str, cid: bytes, load: Load = no_blocks) -> tuple[Tree, bytes | None]:
    """The tree with a record created or replaced, and the CID that was there before.

    Raises MissingNode, InvalidTree.
    """
    key = path.encode()
    height = height_of_key(key)
    root = as_root(tree, load)
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
        changed, before = _put(as_node(below, node.height - 1, load), key, cid, height, load)
        return Node(node.height, keys, values, (*trees[:place], changed, *trees[place + 1 :])), before
    if place < len(keys) and keys[place] == key:
        return Node(height, keys, (*values[:place], cid, *values[place + 1 :]), trees), values[place]
    left, right = (None, None) if below is None else _split(as_node(below, height - 1, load), key, load)
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
    left, right = (None, None) if below is None else _split(as_node(below, node.height - 1, load), key, load)
    return (
        _unless_empty(node.height, node.keys[:place], node.values[:place], (*node.trees[:place], left)),
        _unless_empty(node.height, node.keys[place:], node.values[place:], (right, *node.trees[place + 1 :])),
    )


def _unless_empty(
    height: int, keys: tuple[bytes, ...], values: tuple[bytes, ...], trees: tuple[Tree | None, ...]
) -> Node | None:
    return Node(height, keys, values, trees) if keys or trees[0] is not None else None


def remove(tree: Tree, path: str, load: Load = no_blocks) -> tuple[Tree, bytes | None]:
    """The tree without a record, and the CID that it had; the same tree and None if there was none.

    The result can be a CID: where all that is left is one subtree that was never loaded, that is the new root. Raises
    MissingNode, InvalidTree.
    """
    key = path.encode()
    root = as_root(tree, load)
    result, before = _remove(root, key, height_of_key(key), load)
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
            below = decode_node(below, block, node.height - 1)
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
        changed, before = _remove(as_node(below, node.height - 1, load), key, height, load)
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
    left, right = as_node(left, height, load), as_node(right, height, load)
    middle = _merge(left.trees[-1], right.trees[0], height - 1, load)
    return Node(
        height,
        left.keys + right.keys,
        left.values + right.values,
        (*left.trees[:-1], middle, *right.trees[1:]),
    )
