"""The bytes of an export on their way: in memory while they are few, else in a temporary file."""

from __future__ import annotations

import time
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from appview_pipeline.protocol.export import Buffer, Export, read_export
from appview_pipeline.settings import Settings


class Spool:
    """Takes bytes with `write`, then gives them all as one buffer.

    Beyond `memory_bytes` they go to a file without a name, which the system removes when it is closed, also if this
    process is killed. It is in `folder`, by default the system's folder of temporary files. What it has of the file in
    memory the system may take back at any time.

    Raises OSError where the file can't be written.
    """

    def __init__(self, memory_bytes: int, folder: Path | None = None) -> None:
        self._memory_bytes = memory_bytes
        self._folder = folder
        self._memory: BytesIO | None = BytesIO()
        self._file: IO[bytes] | None = None
        self._map: mmap | None = None
        self.size = 0

    @property
    def is_spilled(self) -> bool:
        """Whether the bytes are in a file."""
        return self._file is not None

    def write(self, piece: bytes) -> None:
        """Appends a piece."""
        self.size += len(piece)
        if self._memory is not None:
            if self.size <= self._memory_bytes:
                self._memory.write(piece)
                return
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 (`close` closes it)
            self._file.write(self._memory.getbuffer())
            self._memory = None
        assert self._file is not None
        self._file.write(piece)

    def buffer(self) -> Buffer:
        """All bytes; nothing is written afterwards."""
        if self._memory is not None:
            return self._memory.getvalue()  # which makes no copy of them
        assert self._file is not None
        self._file.flush()
        self._map = mmap(self._file.fileno(), self.size, access=ACCESS_READ)
        return self._map

    def close(self) -> None:
        """Gives memory and file back; the buffer can't be used any more."""
        self._memory = None
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()

    def export(self, did: str) -> Export:
        """What was written as the export of an account's repository, which owns the spool from now on. Raises
        InvalidExport, and OSError."""
        try:
            buffer = self.buffer()
        except BaseException:
            self.close()
            raise
        return read_export(buffer, did, time.time_ns() // 1_000, close=self.close)


def new_spool(settings: Settings) -> Spool:
    """A spool for one export: APPVIEW_REPO_MEMORY_BYTES in memory; its file in APPVIEW_STATE_DIR if that is there,
    because the system's folder may be in memory too."""
    folder = settings.state_dir
    return Spool(settings.repo_memory_bytes, folder if folder is not None and folder.is_dir() else None)
