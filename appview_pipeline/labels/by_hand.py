"""Labels read without Dagster: `appview-pipeline labels subscribe`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.label_live import LabelSummary, label_live
from appview_pipeline.protocol.syntax import is_did
from appview_pipeline.settings import Settings
from appview_pipeline.store.session_lock import LockTaken

log = logging.getLogger(__name__)


def subscribe(
    settings: Settings,
    labelers: Sequence[str] = (),
    *,
    seconds: float | None = None,
    from_start: bool = False,
    progress: Callable[[LabelSummary], object] = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> LabelSummary:
    """Reads the streams of `labelers` (DIDs; none: those of the settings) for so many seconds (None: until `stopped`).

    Raises `OperatorError` where one is no DID, where there is none to be read, or where the label sensor's process, or
    another one, is at work on this database; and what `label_live` raises.
    """
    for did in labelers:
        if not is_did(did):
            raise OperatorError(f"{did} is not a DID: give DIDs of labelers (did:plc:...).")
    if labelers:
        settings = replace(settings, labelers=tuple(dict.fromkeys(labelers)))
    if not settings.labelers:
        raise OperatorError("No labeler is to be read: give DIDs, or name some in APPVIEW_LABELERS.")
    until: float | None = None

    def ended() -> bool:
        nonlocal until
        if until is None and seconds is not None:
            until = time.monotonic() + seconds  # from now on: the database is open
        return stopped() or (until is not None and time.monotonic() >= until)

    def say(trouble: str | None) -> None:
        if trouble is not None:
            log.warning("%s", trouble)

    try:
        return label_live(settings, ended, from_start=from_start, progress=progress, trouble=say)
    except LockTaken:
        raise OperatorError(
            "Another label process is at work on this database: switch the sensor label_sensor off in Dagster, or end "
            "the other `labels subscribe`, and try again."
        ) from None
