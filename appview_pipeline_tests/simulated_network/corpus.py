"""The corpus format: `[u32 LE length][frame]...`, plain or, when the file's name ends in `.zst`, zstd."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

LARGEST_FRAME = 16_000_000
_LENGTH = struct.Struct("<I")


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[BinaryIO]:
    with path.open(mode) as raw:
        if path.suffix != ".zst":
            yield cast(BinaryIO, raw)
        elif mode == "rb":
            with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
                yield cast(BinaryIO, reader)
        else:
            with zstandard.ZstdCompressor(level=3).stream_writer(raw) as writer:
                yield cast(BinaryIO, writer)


def write_corpus(path: str | Path, frames: Iterable[bytes]) -> int:
    """Writes `frames` to `path` (replaced only when complete) and returns how many there were."""
    path = Path(path)
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    count = 0
    with _opened(partial, "wb") as out:
        for frame in frames:
            out.write(_LENGTH.pack(len(frame)) + frame)
            count += 1
    partial.replace(path)
    return count


def read_corpus(path: str | Path) -> Iterator[bytes]:
    """The frames of `path`, in order. Raises ValueError at a truncated frame or an absurd length."""
    with _opened(Path(path), "rb") as source:
        while head := source.read(4):
            length = _LENGTH.unpack(head)[0] if len(head) == 4 else LARGEST_FRAME + 1
            frame = source.read(length) if length <= LARGEST_FRAME else b""
            if len(frame) != length:
                raise ValueError(f"{path}: not a corpus, or truncated")
            yield frame
