"""Proofs of commits: undoing a commit's ops on the few nodes that it brings along (https://atproto.com/specs/sync)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from appview_pipeline.protocol.mst import put, remove
from appview_pipeline.protocol.mst_node import InvalidTree, Load, MissingNode, Node, Tree, as_node, as_root, no_blocks


class TreeOp(NamedTuple):
    """What a commit says it did at a path: CIDs of the record after (None: deleted) and before (None: created)."""

    path: str
    cid: bytes | None
    prev: bytes | None


def invert(tree: Tree, ops: Iterable[TreeOp], load: Load = no_blocks) -> Tree:
    """The tree as it was before a commit: every op undone (https://atproto.com/specs/sync#commit-validation).

    Each op must fit the tree: a record that was created or updated is there with its CID, a deleted one is not. The
    root of the result must then be the commit's `prevData`. Raises InvalidTree where an op does not fit, MissingNode
    where the nodes that `load` has don't suffice.
    """
    # Putting deleted records back before taking created ones out is the order for which servers choose their nodes.
    pending = sorted(ops, key=lambda op: (op.cid is not None, op.path))
    if len({op.path for op in pending}) < len(pending):
        raise InvalidTree("two operations on one path")
    missing: MissingNode | None = None
    for _ in range(_MAX_ROUNDS):
        postponed = []
        for op in pending:
            try:
                tree = _undo(tree, op, load)
            except MissingNode as error:
                missing = error
                postponed.append(op)
        if not postponed:
            return tree
        if len(postponed) == len(pending):
            break
        pending = postponed
    assert missing is not None
    raise missing


# Another server's order can bring fewer nodes along than ours needs: an op that fails is tried again after the others.
# Real proofs take one round; the limit keeps a hostile one from costing 200 rounds of 200 operations.
_MAX_ROUNDS = 4


def _undo(tree: Tree, op: TreeOp, load: Load) -> Tree:
    path, cid, prev = op
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


def covering_proof(tree: Tree, paths: Iterable[str], load: Load = no_blocks) -> dict[bytes, bytes]:
    """CID -> block of the nodes that a commit brings along so that its changes at `paths` can be inverted: those on the
    way to each path and to its neighbours on both sides. Raises MissingNode, InvalidTree."""
    root = as_root(tree, load)
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
            node = None if below is None else as_node(below, node.height - 1, load)
    return found


def _edge(tree: Tree | None, height: int, side: int, load: Load, found: dict[bytes, bytes]) -> None:
    """Adds the nodes down the left (side 0) or right (side -1) edge of a subtree."""
    while tree is not None:
        node = as_node(tree, height, load)
        found[node.cid] = node.block
        tree, height = node.trees[side], height - 1
