"""Captures a relay's stream in a file, which `replay` and the tests read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.files.capture_file import CaptureWriter
from appview_pipeline.network.subscription import Subscription, SubscriptionStatus
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.settings import Settings

_STEP_SECONDS = 0.25
_STEP_FRAMES = 5_000


@dataclass
class CaptureSummary:
    """What was captured. `bytes` are those of the frames; `gaps`: events that were noticed to be missing."""

    file: str
    frames: int = 0
    bytes: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    first_seq: int | None = None
    last_seq: int | None = None
    reconnects: int = 0
    gaps: list[str] = field(default_factory=list)
    interrupted: bool = False


def capture(
    settings: Settings,
    path: Path | str,
    seconds: float,
    *,
    cursor: int | None = None,
    progress: Callable[[float, SubscriptionStatus], None] | None = None,
) -> CaptureSummary:
    """Captures frames from the relay for `seconds` into `path` (see `CaptureWriter`).

    Begins after `cursor` (None: at the newest event, 0: at the oldest that the relay has). `progress` is called several
    times a second with the seconds gone and the subscription's status. An interrupt (Ctrl-C) completes the file with
    what there is. Raises `OperatorError` when the file can't be written, or when the relay could not be reached at
    all; no file is left then.
    """
    began = time.monotonic()
    summary = CaptureSummary(str(path))
    with (
        CaptureWriter(path) as writer,
        Subscription(
            settings.relay_url, cursor, settings.buffer_bytes, credentials=settings.relay_credentials
        ) as subscription,
    ):
        try:
            while (gone := time.monotonic() - began) < seconds:
                _keep(subscription, writer, summary, min(_STEP_SECONDS, seconds - gone))
                if progress is not None:
                    progress(time.monotonic() - began, subscription.status)
        except KeyboardInterrupt:
            summary.interrupted = True
        subscription.stop()
        while _keep(subscription, writer, summary, 0):
            pass
        status = subscription.status
        if status.connects == 0 and not summary.interrupted:
            raise OperatorError(
                status.last_error or f"{settings.relay_url} was not reached within {seconds:g} s: capture for longer."
            )
        writer.finish()
    summary.frames, summary.bytes = writer.frames, writer.bytes
    summary.file_bytes = Path(path).stat().st_size
    summary.seconds = round(time.monotonic() - began, 3)
    summary.reconnects = status.reconnects
    return summary


def _keep(subscription: Subscription, writer: CaptureWriter, summary: CaptureSummary, timeout: float) -> bool:
    """Writes the next frames, for which it waits `timeout` seconds; False when there are none."""
    frames = subscription.take(_STEP_FRAMES, timeout)
    for frame in frames:
        writer.append(frame)
    numbers = [seq for seq in map(seq_of, frames) if seq is not None]
    if numbers:
        summary.first_seq = numbers[0] if summary.first_seq is None else summary.first_seq
        summary.last_seq = numbers[-1]
    summary.gaps += [it.message for it in subscription.notices() if it.kind in ("gap", "went_back", "oversized")]
    return bool(frames)
