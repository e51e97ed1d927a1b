"""Frames to changes, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from appview_pipeline.indexing.changes import Change, passed_over, read_change, read_envelope
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators
from appview_pipeline.protocol.frames import Commit
from appview_pipeline.store.applied import AppliedRevs
from appview_pipeline.store.batch import Report

LookUp = Callable[[set[str]], Mapping[str, AppliedRevs]]


def read_changes(
    frames: Sequence[bytes],
    validators: Validators,
    collections: IndexedCollections,
    look_up: LookUp | None = None,
) -> list[Change]:
    """The changes of `frames`, one each, in their order.

    With `look_up` (repositories to the span of revs known to be applied), commits that are applied already are passed
    over before their blocks are touched; worth it where many are, as in a replay.
    """
    now = time.time_ns() // 1_000
    envelopes = [read_envelope(frame) for frame in frames]
    applied: Mapping[str, AppliedRevs] = {}
    if look_up is not None:
        applied = look_up({event.repo for event in envelopes if isinstance(event, Commit)})
    changes = []
    for event, frame in zip(envelopes, frames, strict=True):
        if isinstance(event, Change):
            changes.append(event)
        elif isinstance(event, Commit) and (span := applied.get(event.repo)) is not None and event.rev in span:
            changes.append(passed_over(event, frame))
        else:
            changes.append(read_change(event, frame, now, validators, collections))
    return changes


def mostly_applied(reports: Iterable[Report]) -> bool:
    """Whether so much of the last batch had been applied before that the next one is worth looking up first."""
    events = stale = 0
    for report in reports:
        events += report.events
        stale += report.stale
    return stale * 5 >= events > 0
