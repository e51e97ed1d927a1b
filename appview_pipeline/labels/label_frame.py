"""What a frame of a labeler's stream amounts to, and the place in the stream that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.store.labels import LabelRow

LABEL_BYTES = 1_000
"""Bytes of frames for each label, at most; labels have 300 or so."""


@dataclass
class Position:
    """Where a labeler's stream stands: `seq` is the number up to which it is applied, 0 at its beginning.

    Moved by the writer, when a batch is committed. `is_lost`: the stored cursor was somewhere else, because somebody
    else has moved it; whoever reads the stream has to begin at the stored cursor again.
    """

    did: str
    endpoint: str
    seq: int
    is_lost: bool = False


@dataclass(slots=True)
class LabelFrame:
    """A frame, or a part of one. `seq`: None where it has none that can be read, or where another part follows.

    `rows`: its labels that are valid. `rejected`: the others, or the frame itself.
    """

    position: Position
    seq: int | None = None
    rows: list[LabelRow] = field(default_factory=list)
    rejected: list[DeadLetter] = field(default_factory=list)
    is_part: bool = False

    @property
    def labels(self) -> int:
        """Labels in it, rejected ones included."""
        return len(self.rows) + len(self.rejected)
