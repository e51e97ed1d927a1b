"""The bytes of an export, in memory or in a file."""

from __future__ import annotations

import errno
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from appview_pipeline.backfill.spool import Spool, new_spool
from appview_pipeline.protocol.export import InvalidExport
from appview_pipeline.settings import Settings


@pytest.mark.parametrize(
    "pieces", [[], [b""], [b"abc"], [b"abcde"], [b"abc", b"de"], [b"abcde", b"f"], [b"x" * 99] * 9]
)
def test_what_was_written_comes_back(pieces: list[bytes], tmp_path: Path) -> None:
    spool = Spool(5, tmp_path)
    for piece in pieces:
        spool.write(piece)
    whole = b"".join(pieces)
    assert (spool.size, spool.is_spilled) == (len(whole), len(whole) > 5)
    buffer = spool.buffer()
    assert buffer[:] == whole and len(buffer) == len(whole)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    spool.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        spool = Spool(1_000_000, tmp_path)
        for _ in range(1_000):
            spool.write(bytes(60_000))
        assert spool.buffer()[59_999_999] == 0
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
        spool.close()
    finally:
        tracemalloc.stop()


def test_bytes_in_memory_are_there_once(tmp_path: Path) -> None:
    spool = Spool(30_000_000, tmp_path)
    for _ in range(300):
        spool.write(bytes(60_000))
    tracemalloc.start()
    try:
        assert len(spool.buffer()) == 18_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_the_file_is_gone_with_its_owner(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    spool = Spool(0, tmp_path)
    spool.write(b"not a CAR")
    with pytest.raises(InvalidExport):
        spool.export("did:plc:" + "a" * 24)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the operator's state, if it is there; else the system's."""
    used: list[Path | None] = []

    def full(dir: Path | None) -> None:
        used.append(dir)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("appview_pipeline.backfill.spool.TemporaryFile", full)
    for folder in (tmp_path, tmp_path / "none", None):
        with pytest.raises(OSError, match="full"):
            new_spool(Settings(state_dir=folder, repo_memory_bytes=0)).write(b"x")
    assert used == [tmp_path, None, None]


MANY = """
import resource, time
from appview_pipeline.backfill.spool import Spool
from appview_pipeline.protocol import cid, mst
from appview_pipeline.protocol.car import write_car
from appview_pipeline_tests.simulated_network.repository import encode_commit
from pathlib import Path
import os, sys

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1_000 for line in lines if line.startswith("RssAnon"))

did, number = "did:plc:" + "a" * 24, int(sys.argv[2])
path = Path(sys.argv[1]) / "export.car"
if os.fork() == 0:  # what it takes to make the export is not measured
    records = [(f"app.bsky.feed.like/3{at:012d}", b"\\xa1\\x61n\\x1a" + at.to_bytes(4, "big")) for at in range(number)]
    blocks = {cid.cid_for_cbor(block): block for _, block in records}
    tree = mst.build(dict(zip((it for it, _ in records), blocks)))
    signed = encode_commit(did, "3" + "l" * 12, tree.cid, bytes(64))
    head = cid.cid_for_cbor(signed)
    path.write_bytes(write_car(head, [(head, signed), *mst.blocks(tree), *blocks.items()]))
    os._exit(0)
assert os.wait()[1] == 0
spool = Spool(8_000_000, Path(sys.argv[1]))
before, began = anonymous(), time.process_time()
with path.open("rb") as file:
    while piece := file.read(65_536):
        spool.write(piece)
with spool.export(did) as export:
    count = sum(1 for _, of_record in export.records() if export.block(of_record))
    used, seconds = anonymous() - before, time.process_time() - began
assert count == number, count
print(export.size, export.blocks, used, seconds)
"""


@pytest.mark.parametrize(
    "number", [pytest.param(200_000, marks=pytest.mark.slow), pytest.param(1_000_000, marks=pytest.mark.thorough)]
)
def test_very_many_records(tmp_path: Path, number: int) -> None:
    """Index, tree and records of a file, in a process of its own: few bytes of memory and microseconds a record."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path), str(number)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    size, blocks, used, seconds = map(float, done.stdout.split())
    print(f"{size / 1e6:.0f} MB, {blocks:,.0f} blocks: {used / 1e6:.0f} MB of memory, {seconds:.1f} s of CPU")
    assert blocks > 1.2 * number
    assert used < 20_000_000 + 80 * number
    assert seconds < 30
