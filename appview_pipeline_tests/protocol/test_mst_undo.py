"""Undoing a single operation on the bytes of nodes: the same answers as the general inversion, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libipld import decode_dag_cbor, encode_dag_cbor

from appview_pipeline.protocol import cid, mst, mst_proof
from appview_pipeline.protocol.mst_node import InvalidTree, Node, height_of, root_cid
from appview_pipeline.protocol.mst_proof import TreeOp, invert
from appview_pipeline.protocol.mst_undo import undo
from appview_pipeline_tests.support.made_frames import corpus_commits
from appview_pipeline_tests.support.made_frames import single_operation as single

VALUE, OTHER = cid.cid_for_cbor(b"a record"), cid.cid_for_cbor(b"another record")
RAW = cid.cid_for_raw(b"a blob")


def path_of(number: int) -> str:
    return f"com.example.record/{number}"


def general(data: bytes, op: TreeOp, blocks: dict[bytes, bytes]) -> bytes | None:
    """What the general inversion says; None where it refuses."""
    try:
        return root_cid(invert(data, [op], blocks.get))
    except InvalidTree:
        return None


def after(before: dict[str, bytes], op: TreeOp) -> Node:
    """The tree of a repository after an operation."""
    records = {path: value for path, value in before.items() if path != op.path}
    return mst.build(records if op.cid is None else {**records, op.path: op.cid})


records = st.dictionaries(st.integers(0, 300).map(path_of), st.just(VALUE), max_size=60)


@given(records, st.integers(0, 300).map(path_of), st.sampled_from([OTHER, None]))
@settings(deadline=None, max_examples=300)
def test_the_answer_is_that_of_the_general_inversion(before: dict[str, bytes], path: str, value: bytes | None) -> None:
    op = TreeOp(path, value, before.get(path))
    if op.cid is None and op.prev is None:
        return
    tree = after(before, op)
    blocks = dict(mst.blocks(tree))
    expected = mst.build(before).cid
    assert general(tree.cid, op, blocks) == expected
    assert undo(tree.cid, *op, blocks.get) in (None, expected)
    proof = mst_proof.covering_proof(tree, [path])
    assert undo(tree.cid, *op, proof.get) in (None, expected)
    for lie in (
        op._replace(cid=VALUE if value else OTHER),
        op._replace(prev=OTHER if op.prev is None else None),
        op._replace(path=path_of(7)),
        op._replace(path=path + "\x01"),
        TreeOp(path, value, value),
    ):
        assert undo(tree.cid, *lie, blocks.get) in (None, general(tree.cid, lie, blocks)), lie
    for left_out in proof:
        rest = {key: block for key, block in proof.items() if key != left_out}
        assert undo(tree.cid, *op, rest.get) in (None, general(tree.cid, op, rest))


def test_nearly_all_operations_are_undone_this_way() -> None:
    """Trees of some hundred records; what is left to the general inversion changes the root of the tree."""
    draw = Random(3)
    left_out: Counter[str] = Counter()
    for _ in range(600):
        before = {path_of(draw.randrange(5_000)): VALUE for _ in range(draw.randrange(1, 300))}
        path = draw.choice([*before, path_of(draw.randrange(5_000))])
        kind = "create" if path not in before else draw.choice(["update", "delete"])
        op = TreeOp(path, None if kind == "delete" else OTHER, before.get(path))
        tree = after(before, op)
        found = undo(tree.cid, *op, dict(mst.blocks(tree)).get)
        if found is None:
            left_out[kind] += 1
            heights = [max(map(height_of, it), default=-1) for it in (before, dict(mst.walk(tree)))]
            assert heights[0] != heights[1], f"{kind} of {path}"
        else:
            assert found == mst.build(before).cid
    assert sum(left_out.values()) < 60, left_out


def test_real_commits(conformance: Path) -> None:
    """Every one of the corpus that has one operation."""
    commits = [event for event in corpus_commits(conformance) if len(event.ops) == 1]
    assert len(commits) == 147
    for event in commits:
        data, op, load = single(event)
        assert undo(data, *op, load) == event.prev_data


def test_a_path_that_looks_like_a_cid() -> None:
    """`libipld` would encode it as a link."""
    before = {path_of(number): VALUE for number in range(50)}
    for number in range(20):
        op = TreeOp(f"\x12 {number:032}", None, VALUE)
        tree = mst.build(before)
        expected = mst.build({**before, op.path: VALUE}).cid
        assert undo(tree.cid, *op, dict(mst.blocks(tree)).get) in (None, expected)


# --- tampered nodes: valid blocks, whose hashes are right all the way up ----------------------------------------------

Tamper = Callable[[dict[str, Any], Random], None]


def _entry(node: dict[str, Any], draw: Random) -> dict[str, Any]:
    found: dict[str, Any] = draw.choice(node["e"] or [{}])
    return found


def _shorter_prefix(node: dict[str, Any], draw: Random) -> None:
    """The same keys, with less of them shared than there is."""
    keys, key = [], b""
    for entry in node["e"]:
        key = key[: entry["p"]] + entry["k"]
        keys.append(key)
    place = draw.randrange(len(keys))
    shared = draw.randrange(node["e"][place]["p"] + 1)
    node["e"][place].update(p=shared, k=keys[place][shared:])


TAMPERING: dict[str, Tamper] = {
    "a shorter prefix": _shorter_prefix,
    "an impossible prefix": lambda node, draw: _entry(node, draw).update(p=2_000),
    "a negative prefix": lambda node, draw: _entry(node, draw).update(p=-1),
    "a prefix that is true": lambda node, draw: _entry(node, draw).update(p=True),
    "an empty rest": lambda node, draw: _entry(node, draw).update(k=b""),
    "a rest that is text": lambda node, draw: _entry(node, draw).update(k="text"),
    "a rest that is no text": lambda node, draw: _entry(node, draw).update(k=b"\xff\x00"),
    "a rest that holds an entry": lambda node, draw: _entry(node, draw).update(k=b"xap\x05at\xf6av"),
    "a key that is too long": lambda node, draw: _entry(node, draw).update(k=b"z" * 1_100),
    "a value of another kind": lambda node, draw: _entry(node, draw).update(v=RAW),
    "no value": lambda node, draw: _entry(node, draw).update(v=None),
    "a value that is text": lambda node, draw: _entry(node, draw).update(v="x" * 39),
    "a tree of another kind": lambda node, draw: _entry(node, draw).update(t=RAW),
    "a tree that is false": lambda node, draw: _entry(node, draw).update(t=False),
    "a value that is a tree": lambda node, draw: _entry(node, draw).update(
        v=next((it for it in (node["l"], *(entry["t"] for entry in node["e"])) if it), OTHER)
    ),
    "another key in an entry": lambda node, draw: _entry(node, draw).update(w=1),
    "an entry that is none": lambda node, draw: node["e"].insert(0, "entry"),
    "no right tree": lambda node, draw: node["e"][-1].pop("t"),
    "another key in the node": lambda node, draw: node.update(m=1),
    "no left tree": lambda node, draw: node.pop("l"),
    "entries in another order": lambda node, draw: draw.shuffle(node["e"]),
    "an entry twice": lambda node, draw: node["e"].append(node["e"][-1]),
    "no entries": lambda node, draw: node.update(e=[]),
    "nothing else": lambda node, draw: None,
}


def way_to(data: bytes, path: str, blocks: dict[bytes, bytes]) -> list[bytes]:
    """CIDs of the nodes from the root to that of a path, or to where it would be."""
    key, found, at = path.encode(), [], data
    height = -1
    while True:
        found.append(at)
        node = decode_dag_cbor(blocks[at])
        keys, previous = [], b""
        for entry in node["e"]:
            previous = previous[: entry["p"]] + entry["k"]
            keys.append(previous)
        place = sum(it <= key for it in keys)
        below = node["e"][place - 1]["t"] if place else node["l"]
        if height < 0:
            height = height_of(keys[0].decode())
        if key in keys or below is None:
            return found
        at, height = below, height - 1


def replaced(way: list[bytes], at: int, block: bytes, blocks: dict[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """The tree and its blocks with one node on the way replaced, and the links to it."""
    made = dict(blocks)
    link = cid.cid_for_cbor(block)
    made[link] = block
    for place in reversed(range(at)):
        above = blocks[way[place]].replace(way[place + 1], link)
        link = cid.cid_for_cbor(above)
        made[link] = above
    return link, made


def a_commit(draw: Random) -> tuple[Node, TreeOp]:
    before = {path_of(draw.randrange(2_000)): VALUE for _ in range(draw.randrange(5, 120))}
    path = draw.choice([*before, path_of(draw.randrange(2_000))])
    op = TreeOp(path, draw.choice([OTHER, None]) if path in before else OTHER, before.get(path))
    return after(before, op), op


@pytest.mark.parametrize("how", TAMPERING)
def test_tampered_nodes(how: str) -> None:
    draw = Random(how)
    decided = 0
    for _ in range(60):
        tree, op = a_commit(draw)
        blocks = dict(mst.blocks(tree))
        way = way_to(tree.cid, op.path, blocks)
        at = draw.randrange(len(way))
        node = decode_dag_cbor(blocks[way[at]])
        if not node["e"]:
            continue
        TAMPERING[how](node, draw)
        data, made = replaced(way, at, encode_dag_cbor(node), blocks)
        found = undo(data, *op, made.get)
        assert found in (None, general(data, op, made))
        decided += found is not None
    assert decided > 20 if how == "nothing else" else True


def test_any_bytes_of_nodes() -> None:
    """Bytes changed, left out and put in, also such that CBOR says the same in more bytes."""
    draw = Random(8)
    decided = 0
    for _ in range(1_500):
        tree, op = a_commit(draw)
        blocks = dict(mst.blocks(tree))
        way = way_to(tree.cid, op.path, blocks)
        at = draw.randrange(len(way))
        block = bytearray(blocks[way[at]])
        place = draw.randrange(len(block))
        match draw.randrange(5):
            case 0:
                block[place] ^= 1 << draw.randrange(8)
            case 1:
                block[place] = draw.choice(b"\x00\x05\x18\x40\x58\x61\x81\xa4\xd8\xf6")
            case 2:
                del block[place]
            case 3:
                block.insert(place, draw.choice(b"\x00\x18\x58\x98"))
            case _:  # numbers and lengths in one byte more than they need
                ends = [
                    index + 2 for index in range(len(block) - 3) if bytes(block[index : index + 2]) in (b"ap", b"ak")
                ]
                if ends:
                    index = draw.choice(ends)
                    block[index : index + 1] = bytes((block[index] & 0xE0 | 24, block[index] & 31))
        data, made = replaced(way, at, bytes(block), blocks)
        found = undo(data, *op, made.get)
        assert found in (None, general(data, op, made)), block.hex()
        decided += found is not None
    assert 50 < decided < 1_000
