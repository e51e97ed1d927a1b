"""PLC exports as files: JSON lines, plain or compressed with gzip or zstd.

A damaged file is never read as a shorter one: one sentence says what is wrong and how many lines came before.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.protocol import zstd

MAX_LINE_BYTES = 100_000
"""Limit of the bytes of a line. The directory's operations have at most 7,500."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PLAIN_CHUNK = 1 << 20
# A block of zstd can grow from 4 bytes to 128 KiB, and gzip's by a factor of 1,032: a chunk of this size decompresses
# to at most 256 MiB, honest data to some 32 KiB.
_CHUNK = 8 << 10


class ExportFile:
    """The lines of the export at `path`, in order; iterate over it once.

    A line is given without its end, and None stands for one that is longer than `MAX_LINE_BYTES`. How the file is
    compressed is seen from its first bytes. `size` is the size of the file on disk and `consumed` how much of it has
    been read, in bytes; `lines` counts the lines given so far. Raises `OperatorError` when the file can't be read, and
    while iterating when it turns out to be damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.consumed = 0
        self.lines = 0
        try:
            self._file = path.open("rb")
            self.size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
            self._magic = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            raise OperatorError(f"{path} can't be read ({error.strerror}): name the file of a PLC export.") from None

    def __enter__(self) -> ExportFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes | None]:
        try:
            for line in self._split(self._chunks()):
                self.lines += 1
                yield line
        except OSError as error:
            raise OperatorError(f"{self.path} can't be read on ({error.strerror}) {self._after()}.") from None

    def _split(self, chunks: Iterator[bytes]) -> Iterator[bytes | None]:
        rest, is_too_long = b"", False
        for chunk in chunks:
            *whole, last = chunk.split(b"\n")
            for line in whole:
                if is_too_long or len(rest) + len(line) > MAX_LINE_BYTES:
                    yield None
                else:
                    yield rest + line if rest else line
                rest, is_too_long = b"", False
            if is_too_long or len(rest) + len(last) > MAX_LINE_BYTES:
                rest, is_too_long = b"", True
            else:
                rest += last
        if rest or is_too_long:
            yield None if is_too_long else rest

    def _chunks(self) -> Iterator[bytes]:
        if self._magic.startswith(_GZIP_MAGIC):
            return self._decompressed_gzip()
        return self._decompressed_zstd() if self._magic == _ZSTD_MAGIC else self._read(_PLAIN_CHUNK)

    def _read(self, size: int) -> Iterator[bytes]:
        while chunk := self._file.read(size):
            self.consumed += len(chunk)
            yield chunk

    def _decompressed_gzip(self) -> Iterator[bytes]:
        unit, begun = zlib.decompressobj(wbits=31), False
        for chunk in self._read(_CHUNK):
            while chunk:
                if unit.eof:
                    # A file may have several members, and zeros may fill it up to the end of a block.
                    chunk = chunk.lstrip(b"\0")
                    unit, begun = zlib.decompressobj(wbits=31), False
                    continue
                begun = True
                try:
                    data = unit.decompress(chunk)
                except zlib.error as error:
                    raise self._damaged(str(error)) from None
                chunk = unit.unused_data
                if data:
                    yield data
        if begun and not unit.eof:
            raise self._truncated()

    def _decompressed_zstd(self) -> Iterator[bytes]:
        try:
            yield from zstd.decompressed(self._read(_CHUNK))
        except zstd.DamagedStream as error:
            raise self._damaged(str(error)) from None
        except zstd.TruncatedStream:
            raise self._truncated() from None

    def _damaged(self, reason: str) -> OperatorError:
        return OperatorError(f"{self.path} is damaged ({reason}) {self._after()}.")

    def _truncated(self) -> OperatorError:
        return OperatorError(f"{self.path} is truncated {self._after()}: copy or fetch it again.")

    def _after(self) -> str:
        return f"after {self.lines:,} line{'' if self.lines == 1 else 's'}"
