"""Frames of a labeler's stream to labels that are verified, and to dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.labels.label_frame import LabelFrame, Position
from appview_pipeline.labels.verification import KeyInDoubt, LabelerKeys
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.label import InvalidLabel, Label, encode_label, read_label
from appview_pipeline.protocol.label_frames import read_labels_frame
from appview_pipeline.store.dead_letters import LABEL, LABEL_FRAME
from appview_pipeline.store.labels import LabelRow


def read_frames(
    frames: Sequence[bytes], position: Position, keys: LabelerKeys, now_micros: int
) -> tuple[list[LabelFrame], int]:
    """What `frames` of one labeler amount to, in their order, and how many of them were read.

    Fewer than all are read where the labeler's key is in doubt: the rest is to be read again once its document has
    been resolved. Frames of unknown types are ignored, and amount to nothing.
    """
    found: list[LabelFrame] = []
    for number, frame in enumerate(frames):
        try:
            read = _read_frame(frame, position, keys, now_micros)
        except KeyInDoubt:
            return found, number
        if read is not None:
            found.append(read)
    return found, len(frames)


def _read_frame(frame: bytes, position: Position, keys: LabelerKeys, now_micros: int) -> LabelFrame | None:
    """One frame; None where it is of a type that we don't know. Raises KeyInDoubt."""
    did = position.did
    try:
        content = read_labels_frame(frame)
    except FrameError as error:
        letter = DeadLetter(
            kind=error.kind, reason=error.reason, seq=error.seq, did=did, path=None, bytes=frame, form=LABEL_FRAME
        )
        return LabelFrame(position, error.seq, rejected=[letter])
    if content is None:
        return None
    seq, values = content
    read = LabelFrame(position, seq)
    for value in values:
        try:
            label = read_label(value, now_micros)
            assert isinstance(value, dict), "read_label takes maps only"
            read.rows.append(row_of(keys.verify(did, label, value), seq))
        except InvalidLabel as error:
            read.rejected.append(rejected_label(value, error, did, seq))
    return read


def row_of(label: Label, seq: int | None) -> LabelRow:
    """The row of `pipeline.label_event` of a label. `seq`: of its frame; None: it was made here."""
    # By position, in the order of LabelRow: keywords cost time, and there are 10,000 labels a second.
    return LabelRow(
        label.src,
        label.uri,
        label.cid or "",
        label.val,
        label.neg,
        label.cts,
        label.cts_micros,
        label.exp,
        label.exp_micros,
        seq,
        label.sig,
        label.signed,
    )


def rejected_label(value: object, error: InvalidLabel, labeler: str, seq: int | None) -> DeadLetter:
    """The dead letter of a label, as decoded, that was rejected."""
    encoded = encode_label(value)
    return DeadLetter(
        kind=error.kind,
        reason=_storable(error.reason),
        seq=seq,
        did=labeler,
        path=None,
        bytes=encoded or repr(value).encode("utf-8", "replace"),
        form=LABEL if encoded else "other",
    )


def _storable(text: str) -> str:
    """A reason, which may quote the label, as PostgreSQL can store it."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:500]
