"""Files of frames: what was written comes back, and damage is never taken for the end."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import libipld
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.files.capture import capture
from appview_pipeline.ingest.files.capture_file import CaptureReader, CaptureWriter, read_frames
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.protocol.peek import COMMIT_HEADER
from appview_pipeline.settings import Settings

NAMES = ["frames.bin", "frames.bin.zst"]
FRAMES = [bytes([n % 251]) * (n * 37 % 6_000) for n in range(1_000)]


def write(path: Path, frames: list[bytes]) -> None:
    with CaptureWriter(path) as writer:
        for frame in frames:
            writer.append(frame)


def plain(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


@pytest.mark.parametrize("name", NAMES)
def test_frames_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frames = [*FRAMES, b"", b"x" * 5_000_000, b"", b"end"]
    write(path, frames)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    reader = CaptureReader(path)
    assert reader.compressed == name.endswith(".zst")
    assert reader.size == path.stat().st_size
    seen = 0
    for got, frame in zip(reader, frames, strict=True):
        assert got == frame
        assert reader.consumed >= seen
        seen = reader.consumed
    assert (reader.frames, reader.consumed) == (len(frames), reader.size)
    assert list(read_frames(path)) == frames


@settings(max_examples=30, deadline=None)
@given(frames=st.lists(st.binary(max_size=50), max_size=30), cut=st.integers(0, 2_000), compressed=st.booleans())
def test_any_file_reads_whole_and_any_truncation_is_reported(
    tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], cut: int, compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("corpus") / NAMES[compressed]
    write(path, frames)
    assert list(read_frames(path)) == frames
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    path.write_bytes(whole[:cut])
    boundaries, end = [0], 0
    for frame in frames:
        end += 4 + len(frame)
        boundaries.append(end)
    if cut == len(whole):
        assert list(read_frames(path)) == frames
    elif not compressed and cut in boundaries:
        assert list(read_frames(path)) == frames[: boundaries.index(cut)]  # the format does not show it
    else:
        with pytest.raises(OperatorError):
            list(read_frames(path))


@pytest.mark.parametrize("missing", [1, 3, 4, 5, 200_000])
def test_a_truncated_plain_file_says_after_how_many_frames(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "frames.bin"
    path.write_bytes(plain([b"a" * 10, b"b" * 20, b"c" * 200_000])[:-missing])
    got = []
    with pytest.raises(OperatorError) as error:
        got += list(read_frames(path))
    assert str(error.value) == f"{path} is truncated after 2 whole frames: copy or capture it again."


def test_a_truncated_compressed_file_is_reported_even_at_the_end_of_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    block = compressor.compress(plain(FRAMES)) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    path.write_bytes(block)  # all the frames, but not the end of the zstd data
    iterator = read_frames(path)
    got: list[bytes] = []
    with pytest.raises(OperatorError, match=r"is truncated after 1,000 whole frames"):
        got.extend(iterator)
    assert got == FRAMES


def test_a_flipped_bit_in_a_compressed_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin.zst"
    write(path, [bytes(range(256)) * 20] * 100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(OperatorError, match=r"is damaged|is truncated"):
        list(read_frames(path))


def test_a_length_over_the_limit_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin"
    path.write_bytes(plain([b"a"]) + b"\xff\xff\xff\x7f" + b"b" * 100)
    with pytest.raises(OperatorError, match=r"a length of 2,147,483,647 bytes .* after 1 whole frame\."):
        list(read_frames(path))
    path.write_text("{}\n" * 100)
    with pytest.raises(OperatorError, match=r"not a file of frames: .* after 0 whole frames\."):
        list(read_frames(path))


def test_files_that_are_not_there_or_not_what_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"):
        read_frames(tmp_path / "absent.bin")
    with pytest.raises(OperatorError, match="Is a directory"):
        read_frames(tmp_path)
    (tmp_path / "frames.zst").write_bytes(plain([b"a"]))
    with pytest.raises(OperatorError, match=r"named \.zst but holds no zstd data"):
        read_frames(tmp_path / "frames.zst")
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_frames(tmp_path / "empty")) == []


def test_zstd_is_known_by_its_magic_and_may_be_several_frames_with_nothing_else_after(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin"
    parts = [zstandard.compress(plain(FRAMES[:300])), zstandard.compress(plain(FRAMES[300:]))]
    path.write_bytes(b"".join(parts))
    assert list(read_frames(path)) == FRAMES
    path.write_bytes(parts[0] + b"garbage")
    with pytest.raises(OperatorError, match=r"is damaged .* after 300 whole frames"):
        list(read_frames(path))


@pytest.mark.parametrize("name", NAMES)
def test_an_unfinished_file_never_replaces_a_finished_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [b"old"])
    with pytest.raises(ZeroDivisionError), CaptureWriter(path) as writer:
        writer.append(b"new")
        assert list(read_frames(path)) == [b"old"]
        raise ZeroDivisionError
    assert list(read_frames(path)) == [b"old"]
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with CaptureWriter(path) as writer:
        writer.append(b"new")
        writer.finish()
        writer.finish()
    assert list(read_frames(path)) == [b"new"]
    assert (writer.frames, writer.bytes) == (1, 3)
    with pytest.raises(ValueError, match="5,000,001 bytes"), CaptureWriter(path) as writer:
        writer.append(b"x" * 5_000_001)


def test_places_that_can_not_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"No such file or directory.*writable folder"):
        CaptureWriter(tmp_path / "absent" / "frames.bin")
    with pytest.raises(OperatorError, match="is a folder"):
        CaptureWriter(tmp_path)
    if Path("/dev/full").exists():
        with pytest.raises(OperatorError, match="No space left on device"), CaptureWriter(tmp_path / "f") as writer:
            writer._file.close()
            writer._file = writer._out = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115  (the writer's now)
            writer.append(b"x" * 100)


def test_the_conformance_corpus_has_150_frames(conformance: Path) -> None:
    frames = list(read_frames(conformance / "frames" / "jetstream-corpus" / "frames.bin.zst"))
    assert len(frames) == 150
    seqs = [seq_of(frame) for frame in frames]
    assert seqs == list(range(seqs[0] or 0, (seqs[0] or 0) + 150))


@pytest.fixture
def relay_url() -> Iterator[str]:
    """A relay that sends ten commits after the cursor and then nothing."""
    started, stop = threading.Event(), threading.Event()
    port = 0

    async def play(connection: ServerConnection) -> None:
        assert connection.request is not None
        start = int(connection.request.path.partition("cursor=")[2] or 100) + 1
        for seq in range(start, start + 10):
            await connection.send(COMMIT_HEADER + libipld.encode_dag_cbor({"seq": seq}))
        await connection.wait_closed()

    async def main() -> None:
        nonlocal port
        async with serve(play, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(5)
    yield f"ws://127.0.0.1:{port}"
    stop.set()
    thread.join(5)


@pytest.mark.parametrize(("cursor", "first"), [(None, 101), (7, 8)])
def test_capture(tmp_path: Path, relay_url: str, cursor: int | None, first: int) -> None:
    path = tmp_path / "capture.zst"
    seen: list[float] = []
    summary = capture(
        Settings(relay_url=relay_url), path, 0.6, cursor=cursor, progress=lambda seconds, status: seen.append(seconds)
    )
    assert [seq_of(frame) for frame in read_frames(path)] == list(range(first, first + 10))
    assert (summary.frames, summary.first_seq, summary.last_seq) == (10, first, first + 9)
    assert 0.6 <= summary.seconds < 2
    assert (summary.reconnects, summary.gaps, summary.interrupted) == (0, [], False)
    assert summary.file_bytes == path.stat().st_size
    assert seen == sorted(seen) and len(seen) >= 2


def test_an_interrupted_capture_is_a_whole_file(tmp_path: Path, relay_url: str) -> None:
    path = tmp_path / "capture.bin"

    def interrupt(seconds: float, status: object) -> None:
        raise KeyboardInterrupt

    summary = capture(Settings(relay_url=relay_url), path, 60, cursor=0, progress=interrupt)
    assert summary.interrupted is True
    assert len(list(read_frames(path))) == summary.frames == 10


def test_a_capture_from_nowhere_says_why_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="refuses the connection"):
        capture(Settings(relay_url="ws://127.0.0.1:9"), tmp_path / "capture.bin", 0.3)
    assert list(tmp_path.iterdir()) == []
