"""The Merkle search tree against the interoperability vectors, other implementations' exports and itself."""

from __future__ import annotations

import base64
import json
import random
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from libipld import decode_dag_cbor, encode_dag_cbor

from appview_pipeline.protocol import car, cid, mst, mst_node, mst_proof
from appview_pipeline.protocol.commit import decode_commit
from appview_pipeline.protocol.mst_node import EMPTY, InvalidTree, MissingNode, root_cid
from appview_pipeline.protocol.mst_proof import TreeOp, invert

VALUE = cid.cid_for_cbor(b"a record")
OTHER = cid.cid_for_cbor(b"another record")


def test_heights_and_common_prefixes(conformance: Path) -> None:
    folder = conformance / "interop" / "mst"
    for vector in json.loads((folder / "key_heights.json").read_text()):
        assert mst_node.height_of(vector["key"]) == vector["height"]
    for vector in json.loads((folder / "common_prefix.json").read_text()):
        assert mst_node.common_prefix(vector["left"].encode(), vector["right"].encode()) == vector["len"]
    # The file's names say the height: "A0/..." to "Z5/...".
    for key in (folder / "example_keys.txt").read_text().split():
        assert mst_node.height_of(key) == int(key[1])


def test_known_roots() -> None:
    """Of the specification's reference implementations."""
    assert cid.to_text(EMPTY.cid) == "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
    one = cid.from_text("bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454")
    assert cid.to_text(mst.build({"com.example.record/3jqfcqzm3fo2j": one}).cid) == (
        "bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu"
    )


def test_commit_proof_vectors(conformance: Path) -> None:
    vectors = json.loads((conformance / "interop" / "firehose" / "commit-proof-fixtures.json").read_text())
    assert len(vectors) == 6
    for vector in vectors:
        leaf = cid.from_text(vector["leafValue"])
        before = mst.build(dict.fromkeys(vector["keys"], leaf))
        assert cid.to_text(before.cid) == vector["rootBeforeCommit"]
        after: mst_node.Tree = before
        for path in vector["adds"]:
            after, _ = mst.put(after, path, leaf)
        for path in vector["dels"]:
            after, found = mst.remove(after, path)
            assert found == leaf
        assert cid.to_text(root_cid(after)) == vector["rootAfterCommit"]
        proof = mst_proof.covering_proof(after, vector["adds"] + vector["dels"])
        assert {cid.to_text(node) for node in proof} == set(vector["blocksInProof"])
        changes = [TreeOp(path, leaf, None) for path in vector["adds"]]
        changes += [TreeOp(path, None, leaf) for path in vector["dels"]]
        assert root_cid(invert(root_cid(after), changes, proof.get)) == before.cid


def old_commit(conformance: Path, seq: int) -> tuple[bytes, list[TreeOp], car.Blocks]:
    """The tree, the changes and the blocks of a real commit from shortly before Sync 1.1."""
    event = json.loads((conformance / "frames" / "indigo-commits" / f"firehose_commit_{seq}.json").read_text())
    blocks = car.Blocks(base64.b64decode(event["blocks"]["$bytes"] + "=="))
    commit = blocks.get(cid.from_text(event["commit"]["$link"]))
    assert commit
    changes = [TreeOp(op["path"], cid.from_text(op["cid"]["$link"]), None) for op in event["ops"]]
    return decode_commit(commit)["data"], changes, blocks


def test_a_lone_unloaded_subtree_is_the_new_root(conformance: Path) -> None:
    data, changes, blocks = old_commit(conformance, 4623075231)
    assert len(changes) == 1
    assert isinstance(invert(data, changes, blocks.get), bytes)


def test_changes_that_can_be_undone_in_some_order_only(conformance: Path) -> None:
    data, changes, blocks = old_commit(conformance, 4621332152)
    assert len(changes) == 42
    before = invert(data, changes, blocks.get)
    assert root_cid(before) != data
    assert [mst.get(data, path, blocks.get) for path, _, _ in changes] == [value for _, value, _ in changes]


@pytest.mark.parametrize("seq", [4621317030, 4621317332])
def test_a_proof_that_lacks_a_node_is_refused(conformance: Path, seq: int) -> None:
    data, changes, blocks = old_commit(conformance, seq)
    with pytest.raises(MissingNode):
        invert(data, changes, blocks.get)


# --- whole repositories ----------------------------------------------------------------------------------------------

EXPORTS = {
    "jetstream-corpus-repo": 23,
    "arroba-snarfed2": 5,
    "microcosm-empty": 0,
    "microcosm-tiny": 8,
    "dart-repo": 2836,
}


@pytest.mark.parametrize("name", EXPORTS)
def test_repository_exports(conformance: Path, name: str) -> None:
    (root,), blocks = car.read_car((conformance / "cars" / f"{name}.car").read_bytes())
    data = decode_commit(blocks[root])["data"]
    records = dict(mst.walk(data, blocks.get))
    assert len(records) == EXPORTS[name]
    assert list(records) == sorted(records)
    assert all(value in blocks for value in records.values())
    tree = mst.build(records)
    assert tree.cid == data
    assert list(mst.walk(tree)) == list(records.items())
    assert dict(mst.blocks(tree)).items() <= blocks.items()
    assert dict(mst.blocks(data, blocks.get)) == dict(mst.blocks(tree))
    for path in list(records)[:50]:
        assert mst.get(data, path, blocks.get) == records[path]
    if name == "jetstream-corpus-repo":
        listing = (conformance / "cars" / f"{name}.expected_records.tsv").read_text().splitlines()
        assert dict(line.split("\t") for line in listing) == {key: cid.to_text(value) for key, value in records.items()}
        assert cid.to_text(data) in (conformance / "cars" / f"{name}.expected_commit.txt").read_text()


def test_a_hole_in_an_export_is_seen(conformance: Path) -> None:
    (root,), blocks = car.read_car((conformance / "cars" / "dart-repo.car").read_bytes())
    data = decode_commit(blocks[root])["data"]
    nodes = [node for node, _ in mst.blocks(data, blocks.get)]
    for node in random.Random(1).sample(nodes, 10):
        rest = {key: block for key, block in blocks.items() if key != node}
        with pytest.raises(MissingNode) as error:
            list(mst.walk(data, rest.get))
        assert error.value.cid == node


# --- the diff vectors ------------------------------------------------------------------------------------------------


def diff_vectors(conformance: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The CARs and the test cases of the suite, by their names."""
    cars, cases = {}, {}
    with (
        (conformance / "mst" / "mst-test-suite.tar.zst").open("rb") as file,
        tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as archive,
    ):
        for member in archive:
            content = archive.extractfile(member)
            if content and member.name.endswith(".car"):
                cars["./" + member.name.removeprefix("./")] = content.read()
            elif content and member.name.endswith(".json"):
                cases[member.name] = content.read()
    return cars, cases


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.thorough)])
def test_diff_vectors(conformance: Path, share: int) -> None:
    """One in `share` of the 16,384 pairs of trees: the operations lead from one to the other and, with no more than the
    nodes that the suite calls the inductive proof, back."""
    cars, cases = diff_vectors(conformance)
    assert len(cases) == 16_384
    loaded = {name: car.read_car(data) for name, data in cars.items()}
    for name in sorted(cases)[::share]:
        case = json.loads(cases[name])
        ((before,), old), ((after,), new) = (loaded[case["inputs"][side]] for side in ("mst_a", "mst_b"))
        changes = [
            TreeOp(op["rpath"], *(op[key] and cid.from_text(op[key]) for key in ("new_value", "old_value")))
            for op in case["results"]["record_ops"]
        ]
        tree: mst_node.Tree = before
        for path, value, previous in changes:
            tree, found = mst.put(tree, path, value, old.get) if value else mst.remove(tree, path, old.get)
            assert found == previous
        assert root_cid(tree) == after
        made = set(dict(mst.blocks(tree, old.get))) - set(dict(mst.blocks(before, old.get)))
        assert {cid.to_text(node) for node in made} == set(case["results"]["created_nodes"])
        minimal = {cid.from_text(node): new[cid.from_text(node)] for node in case["results"]["inductive_proof_nodes"]}
        assert root_cid(invert(after, changes, minimal.get)) == before
        proof = mst_proof.covering_proof(after, [change.path for change in changes], new.get)
        assert root_cid(invert(after, changes, proof.get)) == before


# --- properties ------------------------------------------------------------------------------------------------------

paths = st.integers(0, 400).map(lambda number: f"com.example.record/{number}")
records = st.dictionaries(paths, st.sampled_from([VALUE, OTHER]), max_size=40)


@given(records, records)
@settings(deadline=None)
def test_editing_ends_in_the_tree_that_building_gives(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    tree: mst_node.Tree = mst.build(before)
    for path in before.keys() - after.keys():
        tree, found = mst.remove(tree, path)
        assert found == before[path]
    for path, value in after.items():
        tree, found = mst.put(tree, path, value)
        assert found == before.get(path)
    assert root_cid(tree) == mst.build(after).cid
    assert dict(mst.walk(tree)) == after
    untouched, found = mst.remove(tree, "com.example.record/none")
    assert found is None
    assert root_cid(untouched) == root_cid(tree)


@given(records, records)
@settings(deadline=None)
def test_covering_proofs_suffice(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    changes = [
        TreeOp(path, after.get(path), before.get(path))
        for path in before.keys() | after.keys()
        if after.get(path) != before.get(path)
    ]
    tree = mst.build(after)
    proof = mst_proof.covering_proof(tree, [change.path for change in changes])
    assert root_cid(invert(tree.cid, changes, proof.get)) == mst.build(before).cid
    assert proof.items() <= dict(mst.blocks(tree)).items()


def test_new_blocks_are_those_of_one_edit() -> None:
    tree = mst.build({f"com.example.record/{number}": VALUE for number in range(300)})
    known = mst.new_blocks(tree)
    assert known == dict(mst.blocks(tree))
    changed, _ = mst.put(tree, "com.example.record/new", OTHER)
    assert isinstance(changed, mst_node.Node)
    made = mst.new_blocks(changed)
    assert 0 < len(made) < 10
    assert dict(mst.blocks(changed)).items() <= (known | made).items()
    assert mst.new_blocks(changed) == {}


def test_persistent_nodes_share_what_an_edit_leaves() -> None:
    tree = mst.build({f"com.example.record/{number}": VALUE for number in range(300)})
    before = tree.cid
    mst.put(tree, "com.example.record/new", OTHER)
    mst.remove(tree, "com.example.record/7")
    assert tree.cid == before
    assert mst.build(dict(mst.walk(tree))).cid == before


# --- damage ----------------------------------------------------------------------------------------------------------


def node_block(entries: list[dict[str, Any]], left: bytes | None = None) -> bytes:
    block: bytes = encode_dag_cbor({"l": left, "e": entries})
    return block


def entry(key: bytes, prefix: int = 0, value: Any = VALUE, tree: Any = None) -> dict[str, Any]:
    return {"p": prefix, "k": key, "v": value, "t": tree}


# Two paths of height 0.
LOW = [
    f"com.example.record/{number}" for number in range(40) if mst_node.height_of(f"com.example.record/{number}") == 0
]
A, B = sorted(LOW)[:2]


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xa0",
        b"\x80",
        b"\x81" * 3000,
        node_block([{}]),
        encode_dag_cbor({"l": None, "e": None}),
        encode_dag_cbor({"l": None, "e": [7]}),
        node_block([entry(b"a", prefix=1)]),
        node_block([entry(b"a", prefix=-1)]),
        node_block([entry(b"", prefix=0)]),
        node_block([{**entry(b"a"), "p": True}]),
        node_block([{**entry(b"a"), "p": "0"}]),
        node_block([{**entry(b"a"), "k": "a"}]),
        node_block([entry(b"a", value=None)]),
        node_block([entry(b"a", value=cid.cid_for_raw(b""))]),
        node_block([entry(b"a", tree=b"a")]),
        node_block([entry(B.encode()), entry(A.encode())]),
        node_block([entry(A.encode()), entry(A.encode())]),
        node_block([entry(b"a" * 1025)]),
        node_block([], left=VALUE),
        node_block([entry("ü".encode())]),
        node_block([entry(A.encode(), tree=VALUE)]),
        node_block([entry(A.encode()), entry(b"com.example.record/zzzzzz")])
        if mst_node.height_of("com.example.record/zzzzzz")
        else b"",
    ],
)
def test_damaged_nodes_are_no_tree(block: bytes) -> None:
    root = cid.cid_for_cbor(block)
    with pytest.raises(InvalidTree):
        list(mst.walk(root, {root: block, VALUE: node_block([])}.get))


def test_a_path_at_the_wrong_height_is_seen_by_the_walk() -> None:
    top = next(
        path for path in (f"com.example.record/{number}" for number in range(9999)) if mst_node.height_of(path) == 2
    )
    below = node_block([entry(b"com.example.record/")])
    assert mst_node.height_of("com.example.record/") == 0
    block = node_block([entry(top.encode())], left=cid.cid_for_cbor(below))
    root = cid.cid_for_cbor(block)
    with pytest.raises(InvalidTree, match="height"):
        list(mst.walk(root, {root: block, cid.cid_for_cbor(below): below}.get))


@pytest.mark.parametrize("keys", [(B, A), (A, A), ("",)])
def test_keys_in_disorder_are_seen_when_a_node_is_read(keys: tuple[str, ...]) -> None:
    block = node_block([entry(key.encode()) for key in keys])
    root = cid.cid_for_cbor(block)
    with pytest.raises(InvalidTree, match="order"):
        mst.get(root, A, {root: block}.get)


@given(st.data())
@settings(deadline=None)
def test_mutated_nodes_raise_nothing_else(data: st.DataObject) -> None:
    tree = mst.build({f"com.example.record/{number}": VALUE for number in range(30)})
    blocks = dict(mst.blocks(tree))
    victim = data.draw(st.sampled_from(sorted(blocks)))
    block = bytearray(blocks[victim])
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    blocks[victim] = bytes(block)
    path = f"com.example.record/{data.draw(st.integers(0, 40))}"
    for use in (
        lambda: list(mst.walk(tree.cid, blocks.get)),
        lambda: mst.put(tree.cid, path, OTHER, blocks.get),
        lambda: root_cid(mst.remove(tree.cid, path, blocks.get)[0]),
        lambda: mst_proof.covering_proof(tree.cid, [path], blocks.get),
    ):
        with suppress(InvalidTree):
            use()


def test_node_blocks_are_dag_cbor_as_libipld_writes_it() -> None:
    tree = mst.build({f"com.example.{'record' * 60}/{number:0300}": VALUE for number in range(200)})
    for _, block in mst.blocks(tree):
        assert encode_dag_cbor(decode_dag_cbor(block)) == block
