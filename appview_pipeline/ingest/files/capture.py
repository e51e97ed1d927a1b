"""Writing a relay's stream to a file, which `replay` and the tests read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.files.capture_file import CaptureWriter
from appview_pipeline.network.subscription import Subscription, SubscriptionStatus
from appview_pipeline.protocol.event_stream import seq_of
from appview_pipeline.settings import Settings

_STEP_SECONDS = 0.25
_STEP_FRAMES = 5_000


def capture(
    settings: Settings,
    path: Path | str,
    seconds: float,
    cursor: int | None = None,
    progress: Callable[[float, SubscriptionStatus], None] | None = None,
) -> dict[str, Any]:
    """Captures frames from the relay for `seconds` into `path` (see `CaptureWriter`).

    Begins after `cursor` (None: at the newest event, 0: at the oldest that the relay has). `progress` is called several
    times a second with the seconds gone and the subscription's status. An interrupt (Ctrl-C) completes the file with
    what there is. Returns the summary: `file`, `frames`, `bytes` (of the frames), `file_bytes`, `seconds`, `first_seq`,
    `last_seq`, `reconnects`, `gaps` (missing events that were noticed) and `interrupted`. Raises `OperatorError` when
    the file can't be written, or when the relay could not be reached at all; no file is left then.
    """
    began = time.monotonic()
    first: bytes | None = None
    last: bytes | None = None
    gaps: list[str] = []
    interrupted = False
    with (
        CaptureWriter(path) as writer,
        Subscription(
            settings.relay_url, cursor, settings.buffer_bytes, credentials=settings.relay_credentials
        ) as subscription,
    ):

        def keep(frames: list[bytes]) -> None:
            nonlocal first, last
            for frame in frames:
                writer.append(frame)
            if frames:
                first = first or next((frame for frame in frames if seq_of(frame) is not None), None)
                last = next((frame for frame in reversed(frames) if seq_of(frame) is not None), last)
            gaps.extend(n.message for n in subscription.notices() if n.kind in ("gap", "went_back", "oversized"))

        try:
            while (gone := time.monotonic() - began) < seconds:
                keep(subscription.take(_STEP_FRAMES, min(_STEP_SECONDS, seconds - gone)))
                if progress is not None:
                    progress(time.monotonic() - began, subscription.status)
        except KeyboardInterrupt:
            interrupted = True
        subscription.stop()
        while frames := subscription.take(_STEP_FRAMES, 0):
            keep(frames)
        status = subscription.status
        if status.connects == 0 and not interrupted:
            raise OperatorError(
                status.last_error or f"{settings.relay_url} was not reached within {seconds:g} s: capture for longer."
            )
        writer.finish()
    return {
        "file": str(path),
        "frames": writer.frames,
        "bytes": writer.bytes,
        "file_bytes": Path(path).stat().st_size,
        "seconds": round(time.monotonic() - began, 3),
        "first_seq": seq_of(first) if first is not None else None,
        "last_seq": seq_of(last) if last is not None else None,
        "reconnects": status.reconnects,
        "gaps": gaps,
        "interrupted": interrupted,
    }
