"""Streams of zstd, of which a part is never taken for the whole.

https://www.rfc-editor.org/rfc/rfc8878
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import zstandard

_MAX_WINDOW_BYTES = 1 << 27


class DamagedStream(Exception):
    """The stream is not zstd, or not what was compressed; `str()` says what is wrong."""


class TruncatedStream(Exception):
    """The stream ends before its end."""


def decompressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What a stream of one or more frames, given in chunks, decompresses to; empty for an empty stream.

    Raises `DamagedStream` and `TruncatedStream`, after everything that comes before.
    """
    # Not the library's stream reader: that takes a truncated file for a complete one.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    unit, begun = decompressor.decompressobj(), False
    for chunk in chunks:
        while chunk:
            if unit.eof:
                unit, begun = decompressor.decompressobj(), False
            begun = True
            try:
                data = unit.decompress(chunk)
            except zstandard.ZstdError as error:
                raise DamagedStream(str(error).removeprefix("zstd decompressor error: ")) from None
            chunk = unit.unused_data if unit.eof else b""
            if data:
                yield data
    if begun and not unit.eof:
        raise TruncatedStream
