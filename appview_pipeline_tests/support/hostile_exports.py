"""Exports of repositories that are damaged, hostile or just odd, each with what has to become of it.

`EXPORTS` is the catalogue: bytes made from a good repository, signed with its key where the fault is in the tree or in
the commit. `ANSWERS` are answers of a PDS that are no export at all. Both are answered by a simulated PDS with
`pds.answers[did] = ...`. `kind` is that of the `FetchFailed` that a fetch of the whole repository, read to its end,
must come to; None: it is a good export, whose records are those of the repository.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import count

import libipld

from appview_pipeline.protocol import cid, mst
from appview_pipeline.protocol.car import iter_blocks, write_car
from appview_pipeline.protocol.mst_node import height_of
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.simulated_network.accounts import make_key, sign
from appview_pipeline_tests.simulated_network.directory import CAR
from appview_pipeline_tests.simulated_network.http_service import Answer, json_answer
from appview_pipeline_tests.simulated_network.repository import Repository, encode_commit

Block = tuple[bytes, bytes]
"""CID and bytes."""
Entry = tuple[str, bytes, bytes | None]
"""Path, CID of its record, the tree to its right."""

BIG = 64_000_000
"""Bytes of a block that is far beyond all limits."""


@dataclass(frozen=True)
class HostileExport:
    """`make` gets a good repository with some records. `is_large`: it has tens of megabytes, or takes seconds."""

    name: str
    make: Callable[[Repository], bytes]
    kind: str | None
    says: str = ""
    is_large: bool = False

    def answer(self, repository: Repository) -> Answer:
        """What a PDS sends."""
        return Answer(self.make(repository), CAR)


# --- parts of exports ------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def section(block: Block) -> bytes:
    return varint(len(block[0]) + len(block[1])) + block[0] + block[1]


def header(*roots: bytes, version: int = 1) -> bytes:
    """A CAR's header; CIDs are written as links."""
    links = b"".join(b"\xd8\x2a\x58\x25\x00" + root for root in roots)
    body = b"\xa2\x65roots" + bytes((0x80 | len(roots),)) + links + b"\x67version" + bytes((version,))
    return varint(len(body)) + body


def as_block(data: bytes) -> Block:
    return cid.cid_for_cbor(data), data


def node(left: bytes | None, entries: Iterable[Entry], *, prefix: int | None = None) -> Block:
    """A node as written, right or wrong; paths are not compressed. `prefix`: what each entry claims as prefix length.

    A path is text; what UTF-8 can't say may be given as surrogates.
    """

    def link(to: bytes | None) -> bytes:
        return b"\xf6" if to is None else b"\xd8\x2a\x58" + bytes((len(to) + 1,)) + b"\x00" + to

    listed = list(entries)
    parts = [b"\xa2\x61e", b"\x9a" + len(listed).to_bytes(4, "big")]
    for path, record, right in listed:
        key = path.encode("utf-8", "surrogateescape")
        parts += [b"\xa4\x61k\x5a", len(key).to_bytes(4, "big"), key]
        parts += [b"\x61p", bytes((prefix or 0,)), b"\x61t", link(right), b"\x61v", link(record)]
    return as_block(b"".join([*parts, b"\x61l", link(left)]))


def commit(repository: Repository, data: bytes, **changed: str) -> Block:
    """A commit of the account, signed with its key. `changed`: another `did` or `rev`."""
    did, rev = changed.get("did", repository.did), changed.get("rev", repository.rev)
    assert rev is not None
    return as_block(encode_commit(did, rev, data, sign(repository.key, encode_commit(did, rev, data, None))))


def signed(repository: Repository, data: bytes, blocks: Iterable[Block]) -> bytes:
    """The CAR of a repository with another tree."""
    head = commit(repository, data)
    return write_car(head[0], [head, *blocks])


def blocks_of(repository: Repository) -> tuple[list[Block], list[Block]]:
    """The nodes and the records of a repository."""
    records = [found for path in sorted(repository.paths()) if (found := repository.get(path))]
    return list(mst.blocks(repository.tree)), list(dict(records).items())


def paths_of_height(height: int) -> Iterator[str]:
    """Paths of posts, in order, all at one height of the tree."""
    for number in count():
        path = f"app.bsky.feed.post/3{number:012d}"
        if height_of(path) == height:
            yield path


RECORD = as_block(bytes(libipld.encode_dag_cbor({"$type": "app.bsky.feed.like", "createdAt": "2026-01-01"})))
"""A small record, for trees of which only the shape matters."""


def some_paths(height: int, number: int) -> list[str]:
    found = paths_of_height(height)
    return [next(found) for _ in range(number)]


# --- the CAR ---------------------------------------------------------------------------------------------------------


def _good(repository: Repository) -> bytes:
    return repository.export()


def _with(repository: Repository, change: Callable[[list[Block]], list[Block]]) -> bytes:
    """The export with other sections after the commit."""
    nodes, records = blocks_of(repository)
    return write_car(repository.commit_cid, [repository.head, *change([*nodes, *records])])


def _damaged(repository: Repository, which: int) -> bytes:
    """One byte of a block changed: of the first node (0), or of the last record (-1)."""

    def change(blocks: list[Block]) -> list[Block]:
        of_block, block = blocks[which]
        blocks[which] = of_block, block[:-1] + bytes((block[-1] ^ 1,))
        return blocks

    return _with(repository, change)


def _twice(blocks: list[Block]) -> list[Block]:
    return [*blocks, *reversed(blocks)]


def _unreferenced(blocks: list[Block]) -> list[Block]:
    """Blocks of other kinds and contents between those that are used, one with a hash that is wrong."""
    blob = b"\x00\x01" * 500
    identity = b"\x01\x71\x00\x02\xa1\x00"  # the content is in the CID
    old = b"\x12\x20" + sha256(blob).digest()  # version 0
    long = b"\x01\x71\x13\x40" + bytes(64)  # SHA-512
    odd = [(cid.cid_for_raw(blob), blob), (identity, b""), (old, blob), (long, blob), (cid.cid_for_cbor(b"x"), b"y")]
    return [*odd, RECORD, *blocks, *odd]


def _length_of_2_gb(repository: Repository) -> bytes:
    return header(repository.commit_cid) + section(repository.head) + varint(2_000_000_000) + bytes(100)


def _endless_length(repository: Repository) -> bytes:
    return repository.export() + b"\xff" * 20


def _big_block(blocks: list[Block]) -> list[Block]:
    """A block of 64 MB that nothing leads to."""
    return [(cid.cid_for_cbor(b""), bytes(BIG)), *blocks]


def flood(blocks: list[Block], number: int = 300_000) -> list[Block]:
    """Sections with as many different CIDs, which have no content."""
    return [*blocks, *((cid.DAG_CBOR + at.to_bytes(32, "big"), b"") for at in range(number))]


# --- the commit ------------------------------------------------------------------------------------------------------


def _other_commit(repository: Repository, block: Block) -> bytes:
    nodes, records = blocks_of(repository)
    return write_car(block[0], [block, *nodes, *records])


def _in_an_hour(repository: Repository) -> bytes:
    rev = tid_from_micros(int((time.time() + 3_600) * 1_000_000))
    return _other_commit(repository, commit(repository, repository.tree.cid, rev=rev))


def _older(repository: Repository) -> bytes:
    rev = tid_from_micros(1_600_000_000_000_000)
    return _other_commit(repository, commit(repository, repository.tree.cid, rev=rev))


def _of_another(repository: Repository) -> bytes:
    return _other_commit(repository, commit(repository, repository.tree.cid, did="did:plc:" + "z" * 24))


def _forged(repository: Repository) -> bytes:
    """Signed with somebody else's key."""
    unsigned = encode_commit(repository.did, str(repository.rev), repository.tree.cid, None)
    signature = sign(make_key("a stranger"), unsigned)
    return _other_commit(
        repository, as_block(encode_commit(repository.did, str(repository.rev), repository.tree.cid, signature))
    )


def _version_2(repository: Repository) -> bytes:
    """As repositories were until 2023."""
    block = commit(repository, repository.tree.cid)[1]
    return _other_commit(repository, as_block(block.replace(b"\x67version\x03", b"\x67version\x02")))


def _not_a_commit(repository: Repository) -> bytes:
    return _other_commit(repository, RECORD)


def _big_commit(repository: Repository) -> bytes:
    block = commit(repository, repository.tree.cid)[1]
    return _other_commit(repository, as_block(block[:-10] + bytes(100_000)))


# --- the tree --------------------------------------------------------------------------------------------------------


def _tree(make: Callable[[], tuple[bytes, list[Block]]]) -> Callable[[Repository], bytes]:
    """Exports with a tree that is made: its root, and its blocks with those of records."""

    def export(repository: Repository) -> bytes:
        data, blocks = make()
        return signed(repository, data, [*blocks, RECORD])

    return export


def _one_node(*entries: Entry, left: bytes | None = None, prefix: int | None = None) -> tuple[bytes, list[Block]]:
    root = node(left, entries, prefix=prefix)
    return root[0], [root]


def _out_of_order() -> tuple[bytes, list[Block]]:
    first, second = some_paths(0, 2)
    return _one_node((second, RECORD[0], None), (first, RECORD[0], None))


def _twice_the_same_path() -> tuple[bytes, list[Block]]:
    (path,) = some_paths(0, 1)
    return _one_node((path, RECORD[0], None), (path, RECORD[0], None))


def _out_of_order_below() -> tuple[bytes, list[Block]]:
    """In order within each node; a node to the right of a path has a smaller one."""
    low, *_ = some_paths(0, 1)
    high = next(path for path in paths_of_height(1) if path > low)
    below = node(None, [(low, RECORD[0], None)])
    root = node(None, [(high, RECORD[0], below[0])])
    return root[0], [root, below]


def _wrong_height() -> tuple[bytes, list[Block]]:
    return _one_node(*((path, RECORD[0], None) for path in sorted(some_paths(1, 1) + some_paths(0, 1))))


def _skipped_height() -> tuple[bytes, list[Block]]:
    """A node two heights below another, where one without paths would have to be between them."""
    low, *_ = some_paths(0, 1)
    high = next(path for path in paths_of_height(2) if path > low)
    below = node(None, [(low, RECORD[0], None)])
    root = node(below[0], [(high, RECORD[0], None)])
    return root[0], [root, below]


def _below_the_lowest() -> tuple[bytes, list[Block]]:
    low, high = some_paths(0, 2)
    below = node(None, [(low, RECORD[0], None)])
    root = node(below[0], [(high, RECORD[0], None)])
    return root[0], [root, below]


def _empty_node_below() -> tuple[bytes, list[Block]]:
    below = node(None, [])
    root = node(below[0], [(some_paths(1, 1)[0], RECORD[0], None)])
    return root[0], [root, below]


def _root_without_paths() -> tuple[bytes, list[Block]]:
    below = node(None, [(some_paths(0, 1)[0], RECORD[0], None)])
    root = node(below[0], [])
    return root[0], [root, below]


def _cycle() -> tuple[bytes, list[Block]]:
    """A node whose subtree is the node itself: no hash can be so, and this one is not."""
    claimed = cid.cid_for_cbor(b"claimed")
    root = node(claimed, [(some_paths(1, 1)[0], RECORD[0], None)])
    return claimed, [(claimed, root[1])]


def _shared_subtrees() -> tuple[bytes, list[Block]]:
    """Thirty levels, each with the one below twice: a thousand million paths in a few kilobytes."""
    below: bytes | None = None
    made = []
    for height in range(30):
        path = some_paths(min(height, 4), 1)[0]
        made.append(node(below, [(path, RECORD[0], below)]))
        below = made[-1][0]
    assert below is not None
    return below, made


def _shared_siblings() -> tuple[bytes, list[Block]]:
    """A node with five thousand paths, all of which have the same node to their right."""
    below = node(None, [(path, RECORD[0], None) for path in some_paths(0, 1_000)])
    root = node(below[0], [(path, RECORD[0], below[0]) for path in some_paths(1, 5_000)])
    return root[0], [root, below]


@cache
def _long_chain() -> tuple[bytes, list[Block]]:
    """Nodes without paths above a subtree, more of them than the heights that there are."""
    made = [node(None, [(some_paths(0, 1)[0], RECORD[0], None)])]
    for _ in range(5_000):
        made.append(node(made[-1][0], []))
    root = node(made[-1][0], [(next(path for path in paths_of_height(3)), RECORD[0], None)])
    return root[0], [root, *made]


def _large_node() -> tuple[bytes, list[Block]]:
    """A node of 8 MB: a hundred thousand paths at height 0."""
    paths = (f"app.bsky.feed.post/3{number:012d}" for number in range(100_000))
    return _one_node(*((path, RECORD[0], None) for path in paths))


def _deep_cbor() -> tuple[bytes, list[Block]]:
    root = as_block(b"\xa2\x61e" + b"\x81" * 200_000 + b"\x80\x61l\xf6")
    return root[0], [root]


def _not_a_node(value: object) -> Callable[[], tuple[bytes, list[Block]]]:
    root = as_block(bytes(libipld.encode_dag_cbor(value)))
    return lambda: (root[0], [root])


def _long_path() -> tuple[bytes, list[Block]]:
    found = (f"app.bsky.feed.post/{'x' * 1_100}{number}" for number in count())
    return _one_node((next(path for path in found if height_of(path) == 0), RECORD[0], None))


def _other_letters() -> tuple[bytes, list[Block]]:
    found = (f"app.bsky.feed.post/\udcff{number}" for number in count())
    path = next(it for it in found if sha256(it.encode("utf-8", "surrogateescape")).digest()[0] >= 64)
    return _one_node((path, RECORD[0], None))


def _same_large_record() -> tuple[bytes, list[Block]]:
    """Two thousand paths with the same record of nearly a megabyte: two gigabytes of records."""
    record = as_block(bytes(libipld.encode_dag_cbor({"$type": "app.bsky.feed.post", "text": "x" * 990_000})))
    tree = mst.build({f"app.bsky.feed.post/3{number:012d}": record[0] for number in range(2_000)})
    return tree.cid, [*mst.blocks(tree), record]


# --- records ---------------------------------------------------------------------------------------------------------


def with_big_record(repository: Repository) -> tuple[bytes, str]:
    """The export with one record more, of 64 MB, and its path. That record is refused by itself."""
    path = "app.bsky.feed.post/3zzzzzzzzzzzz"
    record = as_block(b"\xa1\x64text\x7a" + BIG.to_bytes(4, "big") + b"x" * BIG)
    nodes, records = blocks_of(repository)
    tree, _ = mst.put(repository.tree, path, record[0])
    assert not isinstance(tree, bytes)
    return signed(repository, tree.cid, [*mst.blocks(tree), *nodes, *records, record]), path


def _without(which: str) -> Callable[[Repository], bytes]:
    """The export without one block: a node that is not the root ("node"), the last record, the commit, or the root."""

    def export(repository: Repository) -> bytes:
        nodes, records = blocks_of(repository)
        head = [repository.head]
        if which == "node":
            nodes = nodes[:-1]
        elif which == "record":
            records = records[:-1]
        elif which == "root":
            nodes = nodes[1:]
        else:
            head = []
        return write_car(repository.commit_cid, [*head, *nodes, *records])

    return export


def _cut_in_a_section(repository: Repository) -> bytes:
    """The first half of the export, and the beginning of the section after it."""
    car = repository.export()
    pairs = list(iter_blocks(car))
    return car[: len(write_car(repository.commit_cid, pairs[: len(pairs) // 2])) + 10]


def cut_between_sections(repository: Repository) -> bytes:
    """The export without its last third, cut where a section ends: nothing in the CAR itself shows it."""
    pairs = list(iter_blocks(repository.export()))
    return write_car(repository.commit_cid, pairs[: len(pairs) * 2 // 3])


EXPORTS: tuple[HostileExport, ...] = (
    # Nothing is wrong with these.
    HostileExport("good", _good, None),
    HostileExport("duplicate blocks", lambda it: _with(it, _twice), None),
    HostileExport("unreferenced blocks", lambda it: _with(it, _unreferenced), None),
    HostileExport("records before nodes", lambda it: _with(it, lambda blocks: blocks[::-1]), None),
    HostileExport("a block of 64 MB", lambda it: _with(it, _big_block), None, is_large=True),
    HostileExport("hundreds of thousands of blocks", lambda it: _with(it, flood), None, is_large=True),
    # The CAR.
    HostileExport("nothing", lambda it: b"", "export: car"),
    HostileExport("a web page", lambda it: b"<!DOCTYPE html><html><body>It works" * 99, "export: car"),
    HostileExport("zeros", lambda it: bytes(10_000), "export: car"),
    HostileExport(
        "version 2", lambda it: bytes.fromhex("0aa16776657273696f6e02") + bytes(40) + _good(it), "export: car"
    ),
    HostileExport("version 3", lambda it: header(it.commit_cid, version=3) + section(it.head), "export: car"),
    HostileExport("no root", lambda it: header() + section(it.head), "export: car", "0 roots"),
    HostileExport(
        "several roots", lambda it: header(it.commit_cid, it.tree.cid) + section(it.head), "export: car", "2 roots"
    ),
    HostileExport("a header of 2 GB", lambda it: varint(2_000_000_000) + b"\xa2\x65roots", "export: car"),
    HostileExport("cut in the middle", _cut_in_a_section, "export: car", "cut short"),
    HostileExport("cut in the header", lambda it: _good(it)[:20], "export: car"),
    HostileExport("the last byte is missing", lambda it: _good(it)[:-1], "export: car", "cut short"),
    HostileExport("bytes after the end", lambda it: _good(it) + b"\x05abc", "export: car"),
    HostileExport("zeros after the end", lambda it: _good(it) + bytes(100), "export: car"),
    HostileExport("a section of 2 GB", _length_of_2_gb, "export: car", "cut short"),
    HostileExport("a length without end", _endless_length, "export: car"),
    # Blocks.
    HostileExport("cut between sections", cut_between_sections, "export: missing"),
    HostileExport("without the commit", _without("commit"), "export: missing", "commit"),
    HostileExport("without the root", _without("root"), "export: missing", "node"),
    HostileExport("without a node", _without("node"), "export: missing", "node"),
    HostileExport("without a record", _without("record"), "export: missing", "record"),
    HostileExport("a damaged node", lambda it: _damaged(it, 0), "export: hash"),
    HostileExport("a damaged record", lambda it: _damaged(it, -1), "export: hash"),
    # The commit.
    HostileExport("another account's", _of_another, "export: account", "another account"),
    HostileExport("a rev in the future", _in_an_hour, "export: future"),
    HostileExport("an older rev", _older, "older rev", "older rev"),
    HostileExport("a forged commit", _forged, "signature"),
    HostileExport("a commit of version 2", _version_2, "export: commit", "version 3"),
    HostileExport("a record for a commit", _not_a_commit, "export: commit"),
    HostileExport("a commit of 100 kB", _big_commit, "export: limit"),
    # The tree.
    HostileExport("paths out of order", _tree(_out_of_order), "export: tree", "order"),
    HostileExport("a path twice", _tree(_twice_the_same_path), "export: tree", "order"),
    HostileExport("paths out of order below", _tree(_out_of_order_below), "export: tree", "order"),
    HostileExport("a path at a wrong height", _tree(_wrong_height), "export: tree", "height"),
    HostileExport("a height left out", _tree(_skipped_height), "export: tree", "height"),
    HostileExport("a node below the lowest height", _tree(_below_the_lowest), "export: tree", "below the lowest"),
    HostileExport("an empty node", _tree(_empty_node_below), "export: tree", "empty"),
    HostileExport("a root without paths", _tree(_root_without_paths), "export: tree", "root"),
    HostileExport("a cycle", _tree(_cycle), "export: hash"),
    HostileExport("subtrees shared thirty levels down", _tree(_shared_subtrees), "export: tree"),
    HostileExport("one subtree five thousand times", _tree(_shared_siblings), "export: tree", "order"),
    HostileExport("five thousand nodes without paths", _tree(_long_chain), "export: tree", "below the lowest"),
    HostileExport("a node of 8 MB", _tree(_large_node), "export: limit", "node", is_large=True),
    HostileExport("a node nested 200,000 deep", _tree(_deep_cbor), "export: tree", "node"),
    HostileExport("a node that is a list", _tree(_not_a_node([1])), "export: tree", "node"),
    HostileExport("a node with odd entries", _tree(_not_a_node({"e": [7, None], "l": None})), "export: tree", "node"),
    HostileExport("a node with a text for a link", _tree(_not_a_node({"e": [], "l": "x"})), "export: tree"),
    HostileExport(
        "a prefix that is longer than the path before",
        _tree(lambda: _one_node((some_paths(0, 1)[0], RECORD[0], None), prefix=9)),
        "export: tree",
        "prefix",
    ),
    HostileExport(
        "a blob for a record",
        _tree(lambda: _one_node((some_paths(0, 1)[0], cid.cid_for_raw(b"blob"), None))),
        "export: tree",
        "CID",
    ),
    HostileExport("a path of 1,100 bytes", _tree(_long_path), "export: tree", "long"),
    HostileExport("a path that is no text", _tree(_other_letters), "export: tree", "ASCII"),
    HostileExport("one large record two thousand times", _tree(_same_large_record), "export: limit", is_large=True),
)
"""Exports by name; names are unique."""


@dataclass(frozen=True)
class HostileAnswer:
    """What a PDS answers instead of an export, made of the good export. `blames_account`, `is_final`: as in
    `FetchFailed`. Those that take time end by the limits of `answer_limits`."""

    name: str
    make: Callable[[bytes], Answer]
    kind: str
    says: str = ""
    blames_account: bool = True
    is_final: bool = False


answer_limits: dict[str, float | int] = {
    "fetch_seconds": 1.0,
    "fetch_connect_seconds": 0.5,
    "fetch_read_seconds": 0.5,
    "repo_seconds": 5.0,
    "repo_rate": 10_000,
    "repo_bytes": 4_000_000,
    "host_concurrency": 4,
    "host_repo_fetches": 2,
}
"""Settings with which every answer ends within some 2 seconds."""


def _error(status: int, name: str) -> Callable[[bytes], Answer]:
    return lambda _: json_answer({"error": name, "message": "simulated"}, status)


def _redirect(location: str | None) -> Callable[[bytes], Answer]:
    return lambda _: Answer(status=302, headers={} if location is None else {"Location": location})


def _page(status: int = 200) -> Callable[[bytes], Answer]:
    return lambda _: Answer(b"<!DOCTYPE html><html><body>It works</body></html>", "text/html", status)


ANSWERS: tuple[HostileAnswer, ...] = (
    HostileAnswer("hangs", lambda car: Answer(hangs=True), "timeout", "sent nothing"),
    HostileAnswer("hangs in the middle", lambda car: Answer(car, CAR, hangs_after=len(car) // 2), "timeout", "nothing"),
    HostileAnswer("a byte now and then", lambda car: Answer(car, CAR, byte_seconds=0.02), "timeout", "bytes a second"),
    HostileAnswer("closes in the middle", lambda car: Answer(car, CAR, cut_after=len(car) // 2), "connection"),
    HostileAnswer("a million tiny chunks", lambda car: Answer(car[:40] * 25_000, CAR, chunk_bytes=1), "too big"),
    HostileAnswer("no end", lambda car: Answer(car, CAR, filled_to=10**12), "too big", "more than"),
    HostileAnswer("an announced terabyte", lambda car: Answer(car, CAR, announced=10**12), "too big", "allowed"),
    HostileAnswer("gzip", lambda car: Answer(car, CAR, headers={"Content-Encoding": "gzip"}), "encoding"),
    HostileAnswer("a web page", _page(), "export: car", "text/html"),
    HostileAnswer("JSON", lambda car: json_answer({"did": "did:plc:x"}), "export: car", "application/json"),
    HostileAnswer("status 204", lambda car: Answer(status=204), "status", "204"),
    HostileAnswer("a redirect to itself", _redirect(""), "redirect", "more than 3 times"),
    HostileAnswer("a redirect to nowhere", _redirect(None), "redirect", "nowhere"),
    HostileAnswer("a redirect to another scheme", _redirect("gopher://127.0.0.1/"), "url"),
    HostileAnswer("a web page that says 404", _page(404), "status", "404"),
    HostileAnswer("status 500", _error(500, "InternalServerError"), "status", "InternalServerError"),
    HostileAnswer(
        "429 for an hour",
        lambda car: Answer(status=429, headers={"Retry-After": "3600"}),
        "parked",
        blames_account=False,
    ),
    HostileAnswer("status 503", lambda car: Answer(status=503), "parked", blames_account=False),
    *(
        HostileAnswer(name, _error(400, name), "gone", name, is_final=True)
        for name in ("RepoNotFound", "RepoDeactivated", "RepoTakendown", "RepoSuspended")
    ),
)
"""Answers by name; names are unique. One of them that is not `is_final` may be another the next time."""


def hostile_export(name: str) -> HostileExport:
    """The export of a name."""
    (found,) = (it for it in EXPORTS if it.name == name)
    return found
