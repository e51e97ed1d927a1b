"""Frames to changes, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.events import read_change, read_envelope, skipped_commit
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import Validators
from appview_pipeline.ingest.verification import Verifier
from appview_pipeline.protocol.frames import Commit, Event
from appview_pipeline.store.applied import AppliedRevs, applied_revs
from appview_pipeline.store.database import Database

LookUp = Callable[[set[str]], Mapping[str, AppliedRevs]]
"""From repositories to the spans of revs known to be applied, of those that have one."""


def read_changes(
    frames: Sequence[bytes],
    validators: Validators,
    collections: IndexedCollections,
    look_up: LookUp | None = None,
    verifier: Verifier | None = None,
) -> list[Change]:
    """The changes of `frames`, one each, in their order.

    With `look_up`, commits that are applied already are skipped before their blocks are touched; worth it where many
    are, as in a replay. Without `verifier` only the structure of commits is checked.
    """
    now = time.time_ns() // 1_000
    # What each frame is: the change of one that is decided without its content, else the event.
    events: list[Event | Change] = [read_envelope(frame) for frame in frames]
    if look_up is not None:
        applied = look_up({event.repo for event in events if isinstance(event, Commit)})
        for index, event in enumerate(events):
            if isinstance(event, Commit) and (span := applied.get(event.repo)) is not None and event.rev in span:
                events[index] = skipped_commit(event, frames[index])
    check = None
    if verifier is not None:
        verifier.begin(events)
        check = verifier.check
    changes = [
        event if isinstance(event, Change) else read_change(event, frame, now, validators, collections, check)
        for event, frame in zip(events, frames, strict=True)
    ]
    if verifier is not None:
        verifier.conclude(events, frames, changes)
    return changes


def applied_revs_in(database: Database) -> LookUp:
    """Looks the spans of applied revs up in `database`."""

    def look_up(dids: set[str]) -> Mapping[str, AppliedRevs]:
        with database.connect("reader") as connection:
            return applied_revs(connection, dids)

    return look_up
