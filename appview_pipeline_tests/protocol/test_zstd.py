from __future__ import annotations

import random

import pytest
import zstandard

from appview_pipeline.protocol import zstd

PARTS = [random.Random(1).randbytes(3_000), b"a" * 200_000, b""]
STREAM = b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in PARTS)


def in_chunks(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_frames_of_one_stream_follow_each_other(size: int) -> None:
    assert b"".join(zstd.decompressed(in_chunks(STREAM, size))) == b"".join(PARTS)


def test_an_empty_stream_is_empty() -> None:
    assert list(zstd.decompressed([])) == []


def test_what_comes_before_the_end_of_a_truncated_stream_is_given() -> None:
    found = bytearray()
    first = len(zstandard.ZstdCompressor(write_checksum=True).compress(PARTS[0]))
    with pytest.raises(zstd.TruncatedStream):
        for piece in zstd.decompressed(in_chunks(STREAM[: first + 5], 100)):
            found += piece
    assert bytes(found) == PARTS[0]


@pytest.mark.parametrize("stream", [b"no zstd at all", STREAM[:1_000] + b"\xff" + STREAM[1_001:]])
def test_a_damaged_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(zstd.DamagedStream, match=r"^(?!zstd)\w"):
        list(zstd.decompressed([stream]))
