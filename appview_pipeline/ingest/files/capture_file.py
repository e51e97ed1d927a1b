"""Captures: files of frames, `[u32 little-endian length][frame]...`, plain or compressed with zstd (`.zst`).

A damaged file is never read as a shorter one: one sentence says what is wrong and how many whole frames came before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import zstandard

from appview_pipeline.errors import OperatorError
from appview_pipeline.protocol import zstd
from appview_pipeline.protocol.event_stream import MAX_FRAME_BYTES

_LENGTH = struct.Struct("<I")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # as a length it would be 4.2 GB, so no plain file starts with it
_PLAIN_CHUNK = 1 << 20
# A zstd block can grow from 4 bytes to 128 KiB: a chunk of this size decompresses to at most 256 MiB, honest data to
# some 16 KiB.
_ZSTD_CHUNK = 8 << 10
_ZSTD_LEVEL = 3


class CaptureReader:
    """The frames of the file at `path`, in order; iterate over it once.

    `size` is the size of the file on disk and `consumed` how much of it has been read, in bytes, for progress bars;
    `frames` is the number of frames given so far. Raises `OperatorError` when the file can't be read, and while
    iterating when it turns out to be damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.consumed = 0
        self.frames = 0
        try:
            self._file = self.path.open("rb")
            self.size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
            magic = self._file.read(len(_ZSTD_MAGIC))
            self._file.seek(0)
        except OSError as error:
            raise OperatorError(f"{self.path} can't be read ({error.strerror}): name a file of frames.") from None
        self.compressed = magic == _ZSTD_MAGIC
        if not self.compressed and self.path.suffix == ".zst":
            self._file.close()
            raise OperatorError(f"{self.path} is named .zst but holds no zstd data: rename it or fetch it again.")

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._split(self._decompressed() if self.compressed else self._read(_PLAIN_CHUNK))
        except OSError as error:
            raise OperatorError(f"{self.path} can't be read on ({error.strerror}) {self._after()}.") from None
        finally:
            self._file.close()

    def _split(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        unpack = _LENGTH.unpack_from
        rest = b""
        for chunk in chunks:
            data = rest + chunk if rest else chunk
            at, end = 0, len(data)
            while end - at >= 4:
                (length,) = unpack(data, at)
                if length > MAX_FRAME_BYTES:
                    raise OperatorError(
                        f"{self.path} is damaged or not a file of frames: a length of {length:,} bytes (at most "
                        f"{MAX_FRAME_BYTES:,} are possible) {self._after()}."
                    )
                stop = at + 4 + length
                if stop > end:
                    # A large frame is joined once, not copied again with each chunk.
                    missing = stop - end
                    parts = [data[at:]]
                    for more in chunks:
                        parts.append(more)
                        missing -= len(more)
                        if missing <= 0:
                            break
                    data = b"".join(parts)
                    at, end = 0, len(data)
                    stop = 4 + length
                    if stop > end:
                        raise self._truncated()
                self.frames += 1
                yield data[at + 4 : stop]
                at = stop
            rest = data[at:]
        if rest:
            raise self._truncated()

    def _read(self, size: int) -> Iterator[bytes]:
        while chunk := self._file.read(size):
            self.consumed += len(chunk)
            yield chunk

    def _decompressed(self) -> Iterator[bytes]:
        try:
            yield from zstd.decompressed(self._read(_ZSTD_CHUNK))
        except zstd.DamagedStream as error:
            raise OperatorError(f"{self.path} is damaged ({error}) {self._after()}.") from None
        except zstd.TruncatedStream:
            raise self._truncated() from None

    def _truncated(self) -> OperatorError:
        return OperatorError(f"{self.path} is truncated {self._after()}: copy or capture it again.")

    def _after(self) -> str:
        return f"after {self.frames:,} whole frame{'' if self.frames == 1 else 's'}"


def read_frames(path: Path | str) -> Iterator[bytes]:
    """The frames of the file at `path`, in order. Raises `OperatorError` as `CaptureReader` does."""
    return iter(CaptureReader(path))


class CaptureWriter:
    """Writes frames to `path`, compressed when its name ends in `.zst`.

    The file appears (or replaces one) whole and durable when `finish` is called or the `with` block ends without an
    exception; until then it is `path` + `.partial`, which is removed again otherwise. Raises `OperatorError` when it
    can't be written. `frames` and `bytes` count what was appended.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.frames = 0
        self.bytes = 0
        self._partial = self.path.with_name(self.path.name + ".partial")
        if self.path.is_dir():
            raise OperatorError(f"{self.path} is a folder: name a file to write to.")
        try:
            self._file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise self._unwritable(error) from None
        self._out: BinaryIO | zstandard.ZstdCompressionWriter = self._file
        if self.path.suffix == ".zst":
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
            self._out = compressor.stream_writer(self._file, closefd=False)
        self._open = True

    def append(self, frame: bytes) -> None:
        """Adds one frame of at most 5,000,000 bytes (`ValueError` beyond)."""
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(frame):,} bytes; the format holds at most {MAX_FRAME_BYTES:,}")
        try:
            self._out.write(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise self._unwritable(error) from None
        self.frames += 1
        self.bytes += len(frame)

    def finish(self) -> None:
        """Completes the file, puts it on disk and gives it its name."""
        if not self._open:
            return
        try:
            if self._out is not self._file:
                self._out.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from None
        self._open = False

    def discard(self) -> None:
        """Removes what was written, unless the file was finished."""
        if not self._open:
            return
        self._open = False
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()

    def _unwritable(self, error: OSError) -> OperatorError:
        return OperatorError(
            f"{self.path} can't be written ({error.strerror}): name a file in a writable folder with free space."
        )
