"""Exports of repositories: what is read of them, and what becomes of damaged and hostile ones."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.protocol import cid, mst
from appview_pipeline.protocol.car import read_car, write_car
from appview_pipeline.protocol.cbor import MAX_RECORD, InvalidRecord, decode_as_sent
from appview_pipeline.protocol.commit import decode_commit
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.export import Export, InvalidExport, read_export
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.protocol.signing import PublicKey, parse_multikey, verify_commit
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.simulated_network.accounts import make_key, multikey
from appview_pipeline_tests.simulated_network.repository import History, Repository, Write
from appview_pipeline_tests.support import hostile_exports
from appview_pipeline_tests.support.hostile_exports import EXPORTS, HostileExport
from appview_pipeline_tests.support.lexicons import CONFORMANCE
from appview_pipeline_tests.support.made_frames import corpus_commits

DID = "did:plc:" + "a" * 24
SECONDS = 3.0
"""Seconds of CPU that any export of some megabytes may take; it is a matter of milliseconds, but for the largest."""
SMALL_CARS = ("arroba-snarfed2", "jetstream-corpus-repo", "microcosm-empty", "microcosm-tiny")


@pytest.fixture(scope="module")
def repository() -> Repository:
    """One with 200 records in a tree of several heights."""
    made = Repository(DID, make_key("export"), History())
    start = 1_780_000_000_000_000
    writes = [
        Write(
            "create",
            f"app.bsky.feed.{('like', 'post')[number % 2]}/{tid_from_micros(start + number * 1_000)}",
            {"$type": "app.bsky.feed.post", "text": f"the {number}th", "createdAt": "2026-06-01T00:00:00Z"},
        )
        for number in range(200)
    ]
    made.commit(writes, tid_from_micros(start + 1_000_000_000))
    return made


def key_of(repository: Repository) -> PublicKey:
    return parse_multikey(multikey(repository.key))


def opened(car: bytes, did: str = DID) -> Export:
    return read_export(car, did, time.time_ns() // 1_000)


def read_whole(car: bytes, repository: Repository) -> dict[str, tuple[bytes, bytes]]:
    """CID and block of every record by path. Raises InvalidExport; of a kind of its own where the commit is another's,
    or an older one."""
    export = opened(car, repository.did)
    if not verify_commit(key_of(repository), export.signed, export.sig):
        raise InvalidExport("signature", "not signed")  # type: ignore[arg-type]
    if repository.rev is None or export.rev < repository.rev:
        raise InvalidExport("older rev", "an older rev")  # type: ignore[arg-type]
    return {path: (of_record, export.block(of_record)) for path, of_record in export.records()}


def contents(repository: Repository) -> dict[str, tuple[bytes, bytes]]:
    return {path: found for path in repository.paths() if (found := repository.get(path))}


def test_a_repository(repository: Repository) -> None:
    car = repository.export()
    export = opened(car)
    assert (export.did, export.rev, export.data) == (DID, repository.rev, repository.tree.cid)
    assert (export.commit, export.signed) == repository.head
    assert export.size == len(car) and export.blocks == len(read_car(car)[1])
    listed = list(export.records())
    assert [path for path, _ in listed] == sorted(repository.paths(), key=str.encode)
    assert listed == list(export.records()) == list(mst.walk(repository.tree))
    assert read_whole(car, repository) == contents(repository)


def test_an_empty_repository() -> None:
    made = Repository(DID, make_key("empty"), History())
    made.found(tid_from_micros(1_780_000_000_000_000))
    export = opened(made.export())
    assert list(export.records()) == [] and export.find("app.bsky.feed.post/3aaaaaaaaaa2a") is None


def test_a_record_is_found_or_proved_absent(repository: Repository) -> None:
    for path in repository.paths():
        export = opened(repository.proof(path))
        found = export.find(path)
        stored = repository.get(path)
        assert found is not None and stored == (found, export.block(found))
    absent = "app.bsky.feed.post/3zzzzzzzzzzzz"
    assert opened(repository.proof(absent)).find(absent) is None


def test_a_proof_that_proves_too_little(repository: Repository) -> None:
    """With the commit alone nothing is proved, least of all that there is no record."""
    for path in (next(iter(repository.paths())), "app.bsky.feed.post/3zzzzzzzzzzzz"):
        with pytest.raises(InvalidExport) as caught:
            opened(write_car(repository.commit_cid, [repository.head])).find(path)
        assert caught.value.kind == "missing"


def test_it_is_closed_once() -> None:
    closed: list[int] = []
    made = Repository(DID, make_key("empty"), History())
    made.found(tid_from_micros(1_780_000_000_000_000))
    with read_export(made.export(), DID, time.time_ns() // 1_000, close=lambda: closed.append(1)) as export:
        assert closed == []
    export.close()
    assert closed == [1]
    with pytest.raises(InvalidExport):
        read_export(b"", DID, 0, close=lambda: closed.append(2))
    assert closed == [1, 2]


@pytest.mark.parametrize("hostile", EXPORTS, ids=lambda it: it.name)
def test_what_becomes_of_hostile_exports(hostile: HostileExport, repository: Repository) -> None:
    car = hostile.make(repository)
    began = time.thread_time()
    if hostile.kind is None:
        assert read_whole(car, repository) == contents(repository)
    else:
        with pytest.raises(InvalidExport) as caught:
            read_whole(car, repository)
        assert caught.value.kind == hostile.kind.removeprefix("export: "), caught.value.reason
        assert hostile.says in caught.value.reason
        assert caught.value.reason.isprintable() and len(caught.value.reason) < 300
    assert time.thread_time() - began < SECONDS


def test_names_of_hostile_exports_are_unique() -> None:
    assert len({it.name for it in EXPORTS}) == len(EXPORTS) > 50


def test_a_record_of_64_megabytes_is_refused_by_itself(repository: Repository) -> None:
    car, path = hostile_exports.with_big_record(repository)
    tracemalloc.start()
    try:
        found = read_whole(car, repository)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    _, block = found.pop(path)
    assert found == contents(repository)
    assert len(block) == MAX_RECORD + 1
    with pytest.raises(InvalidRecord, match="the limit is 1,000,000"):
        decode_as_sent(block)


def test_the_index_is_small(repository: Repository) -> None:
    """Far less than the 150 bytes a block that it may take."""
    number = 50_000
    car = write_car(repository.commit_cid, hostile_exports.flood([repository.head], number))
    tracemalloc.start()
    try:
        export = opened(car)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert export.blocks == number + 1
    assert kept < 20 * number and peak < 40 * number


def test_the_number_of_blocks_is_limited(repository: Repository) -> None:
    car = repository.export()
    count = len(read_car(car)[1])
    assert read_export(car, DID, time.time_ns() // 1_000, max_blocks=count).blocks == count
    with pytest.raises(InvalidExport, match="the limit is") as caught:
        read_export(car, DID, time.time_ns() // 1_000, max_blocks=count - 1)
    assert caught.value.kind == "limit"


def test_cids_that_share_a_place_of_the_index_cost_a_bounded_time(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hashes are not seeded, somebody could choose CIDs so that all of them share one."""
    monkeypatch.setattr("appview_pipeline.protocol.export.hash", lambda _: 7, raising=False)
    with pytest.raises(InvalidExport, match="share places") as caught:
        opened(write_car(repository.commit_cid, hostile_exports.flood([repository.head], 20_000)))
    assert caught.value.kind == "limit"


# --- damage ----------------------------------------------------------------------------------------------------------


def read_as_far_as_possible(car: bytes, did: str) -> tuple[bytes, dict[str, bytes], bool]:
    """The signed commit, the blocks of records by path, and whether that is all of it."""
    found: dict[str, bytes] = {}
    signed = b""
    try:
        export = opened(car, did)
        signed = export.signed
        for path, of_record in export.records():
            found[path] = export.block(of_record)
    except InvalidExport as error:
        assert error.reason and error.kind
        return signed, found, False
    return signed, found, True


Damage = tuple[str, float, float, int]
damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "remove", "repeat", "splice", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def damaged(car: bytes, other: bytes, damage: Damage) -> bytes:
    kind, first, second, value = damage
    at = int(first * len(car))
    length = 1 + int(second**3 * 400)
    if not car:
        return car
    if kind == "flip":
        return car[:at] + bytes((car[at] ^ (1 << value % 8),)) + car[at + 1 :]
    if kind == "set":
        return car[:at] + bytes((value,)) + car[at + 1 :]
    if kind == "cut":
        return car[:at]
    if kind == "remove":
        return car[:at] + car[at + length :]
    if kind == "repeat":
        return car[:at] + car[at : at + length] * 2 + car[at + length :]
    if kind == "insert":
        return car[:at] + bytes((value,)) * (length % 40) + car[at:]
    return car[:at] + other[int(second * len(other)) :][:length] + car[at:]


@pytest.fixture(scope="module")
def good_cars(repository: Repository) -> list[tuple[str, bytes]]:
    """DIDs and exports: our own, and real ones where they are there."""
    small = Repository(DID, make_key("small"), History())
    paths = [f"app.bsky.feed.like/{tid_from_micros(1_780_000_000_000_000 + at)}" for at in range(9)]
    small.commit([Write("create", path, {"path": path}) for path in paths], tid_from_micros(1_780_000_001_000_000))
    found = [(DID, small.export()), (DID, repository.export())]
    if CONFORMANCE.is_dir():
        cars = [(CONFORMANCE / "cars" / f"{name}.car").read_bytes() for name in SMALL_CARS]
        found += [(did_of(car), car) for car in cars]
    return found


@given(st.integers(0, 99), damages)
def test_damage_never_makes_a_record(good_cars: list[tuple[str, bytes]], which: int, done: list[Damage]) -> None:
    """Of a damaged export at most a part is read, and every record of that is one of the good export."""
    did, good = good_cars[which % len(good_cars)]
    _, other = good_cars[(which // 10) % len(good_cars)]
    bad = good
    for damage in done:
        bad = damaged(bad, other, damage)
    signed, whole, is_whole = read_as_far_as_possible(good, did)
    assert is_whole
    bad_signed, found, is_complete = read_as_far_as_possible(bad, did)
    assert bad_signed in (b"", signed) or did == DID  # of ours there are two
    if bad_signed == signed:
        assert found.items() <= whole.items()
        assert not is_complete or found == whole


def test_every_cut_and_every_flipped_byte_of_a_small_export(good_cars: list[tuple[str, bytes]]) -> None:
    did, good = good_cars[0]
    _, whole, _ = read_as_far_as_possible(good, did)
    for at in range(len(good)):
        cut, flipped = good[:at], good[:at] + bytes((good[at] ^ 0xFF,)) + good[at + 1 :]
        assert not read_as_far_as_possible(cut, did)[2], at
        _, found, is_whole = read_as_far_as_possible(flipped, did)
        assert not is_whole and found.items() <= whole.items(), at


# --- real exports, and the listings of other tools -------------------------------------------------------------------


def did_of(car: bytes) -> str:
    """Whose repository a CAR is, as its commit says."""
    (root,), blocks = read_car(car)
    did: str = decode_commit(blocks[root])["did"]
    return did


@pytest.mark.parametrize("name", [*SMALL_CARS, "dart-repo"])
def test_real_exports(conformance: Path, name: str) -> None:
    """The same paths and CIDs as a walk through the tree that shares no code with this one but the hashes."""
    car = (conformance / "cars" / f"{name}.car").read_bytes()
    (root,), blocks = read_car(car)
    export = opened(car, did_of(car))
    assert (export.commit, export.signed, export.blocks) == (root, blocks[root], len(blocks))
    listed = list(export.records())
    assert listed == list(mst.walk(export.data, blocks.get))
    assert all(export.block(of_record) == blocks[of_record] for _, of_record in listed)
    assert len(listed) == {"dart-repo": 2_836}.get(name, len(listed))


def test_the_listing_of_a_go_tool(conformance: Path) -> None:
    folder = conformance / "cars"
    car = (folder / "jetstream-corpus-repo.car").read_bytes()
    export = opened(car, did_of(car))
    listing = (folder / "jetstream-corpus-repo.expected_records.tsv").read_text().splitlines()
    expected = [tuple(line.split("\t")) for line in listing]
    assert [(path, cid.to_text(of_record)) for path, of_record in export.records()] == expected
    said = (folder / "jetstream-corpus-repo.expected_commit.txt").read_text()
    assert cid.to_text(export.data) in said and export.rev in said


def test_the_listing_of_a_python_tool(conformance: Path) -> None:
    folder = conformance / "cars"
    car = (folder / "arroba-snarfed2.car").read_bytes()
    export = opened(car, did_of(car))
    expected = json.loads((folder / "arroba-snarfed2.expected.json").read_text())
    paths = {f"{collection}/{rkey}" for collection, records in expected.items() for rkey in records}
    found = {path: decode_as_sent(export.block(of_record))[1] for path, of_record in export.records()}
    assert found.keys() == paths
    for collection, records in expected.items():
        for rkey, record in records.items():
            assert json.loads(found[f"{collection}/{rkey}"].replace('"$link"', '"/"')) == record


def test_the_proofs_of_real_commits(conformance: Path) -> None:
    """A commit brings along the part of the tree that proves its operations: each record is found, or is gone."""
    proved = 0
    for event in corpus_commits(conformance):
        export = opened(event.blocks, event.repo)
        assert (export.commit, export.rev) == (event.commit, event.rev)
        for op in event.ops:
            assert export.find(op["path"]) == op["cid"]
            proved += 1
    assert proved >= 148


def test_the_blocks_of_malformed_frames(conformance: Path) -> None:
    """Read as exports they are refused, or give what their trees prove; nothing else happens."""
    refused = 0
    for path in sorted((conformance / "malformed").glob("*.frame")):
        try:
            event = decode_frame(path.read_bytes())
        except FrameError:
            continue
        if isinstance(event, Commit):
            _, _, is_whole = read_as_far_as_possible(event.blocks, event.repo)
            refused += not is_whole
    assert refused >= 5


def test_the_interop_cars(conformance: Path) -> None:
    """Blocks in a CAR, of which no tree is known: each is found by its CID."""
    cases = json.loads((conformance / "interop" / "extra" / "car-file-fixtures.json").read_text())
    assert cases
    for case in cases:
        car = base64.b64decode(case["car"] + "==")
        blocks = {cid.from_text(it["cid"]): base64.b64decode(it["bytes"] + "==") for it in case["blocks"]}
        assert read_car(car) == ([cid.from_text(case["root"])], blocks)
        with pytest.raises(InvalidExport) as caught:
            opened(car)
        assert caught.value.kind == "commit"
