"""What has come of the labelers' streams: `pipeline.labeler`, whose counts are totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.labelers import LOCK
from appview_pipeline.store.session_lock import lock_key
from appview_pipeline.store.sql import sections

NEW, CONNECTED, WAITING, PARKED = "new", "connected", "waiting", "parked"
STATES = (CONNECTED, WAITING, PARKED, NEW)
"""The states of a labeler that is read (`pipeline.labeler.state`)."""


@dataclass(frozen=True)
class LabelerReport:
    """A labeler and what has come of its stream.

    `handle`: its verified handle. `is_wanted`: its stream is read, by `APPVIEW_LABELERS`. `reason`: why it is waiting
    or parked. `state_seconds`: for how long it has been in its state. `is_caught_up`: all that it had sent when its
    last frame came was applied. `silent_seconds`: since that frame; None where there was none. `newest_seconds`: since
    the newest time that a label of it states. `frames` to `rejected` are totals. `in_effect`: its labels that are
    neither negated nor expired. `gap_seconds`: for how long labels of it are known to be missing, which its server did
    not keep; None: none are.
    """

    did: str
    handle: str | None
    is_wanted: bool
    endpoint: str | None
    cursor: int
    state: str
    reason: str | None
    state_seconds: float
    is_caught_up: bool
    silent_seconds: float | None
    newest_seconds: float | None
    frames: int
    labels: int
    changed: int
    repeated: int
    rejected: int
    rejected_by_kind: dict[str, int]
    in_effect: int
    gap_seconds: float | None

    @property
    def name(self) -> str:
        """Its DID, with its handle where one is verified."""
        return self.did if self.handle is None else f"{self.did} ({self.handle})"

    @property
    def lag_seconds(self) -> float:
        """How far behind its labels are: 0 where all was applied; while its stream is read, the age of the newest label
        applied; without a connection, for how long there has been none."""
        if self.state != CONNECTED:
            return max(self.state_seconds, 0.0)
        if self.is_caught_up or self.newest_seconds is None:
            return 0.0
        return max(self.newest_seconds, 0.0)  # its clock may be ahead of ours


@dataclass(frozen=True)
class LabelStatus:
    """Labels, for `status`.

    `is_running`: a label process is at work. `labelers`: those that are read, by state; `parked`: those of them that
    are parked, with the reason. `in_effect`: labels in effect of all labelers that were ever read. `lag_seconds`: the
    largest of those that are not parked, and `lag_of` whose it is. `rejected_today` (UTC): labels that became dead
    letters, by kind.
    """

    is_running: bool
    labelers: dict[str, int]
    parked: dict[str, str]
    in_effect: int
    lag_seconds: float | None
    lag_of: str | None
    rejected_today: dict[str, int]


def _rows(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("report/labels.sql")[name], parameters or None)
        return cursor.fetchall()


def labeler_reports(connection: Connection) -> list[LabelerReport]:
    """All labelers that are read or were read, by DID."""
    return [LabelerReport(*row) for row in _rows(connection, "labelers")]


def is_lock_held(connection: Connection, lock: str) -> bool:
    """Whether a session of this database holds the session lock with that name (`store/session_lock.py`)."""
    return bool(_rows(connection, "running", key=lock_key(lock))[0][0])


def rejected_today(connection: Connection) -> dict[str, int]:
    """Labels that became dead letters today (UTC), by kind; those that were only counted among them."""
    return dict(_rows(connection, "rejected_today"))


def by_state(labelers: Sequence[LabelerReport]) -> dict[str, int]:
    """How many of the labelers that are read are in each state, in the order of `STATES`."""
    counts = Counter(it.state for it in labelers if it.is_wanted)
    return {state: counts[state] for state in STATES if counts[state]}


def label_status(connection: Connection) -> LabelStatus:
    """The labels' part of `status`."""
    labelers = labeler_reports(connection)
    read = [it for it in labelers if it.is_wanted]
    behind = max((it for it in read if it.state != PARKED), key=lambda it: it.lag_seconds, default=None)
    return LabelStatus(
        is_running=is_lock_held(connection, LOCK),
        labelers=by_state(labelers),
        parked={it.did: it.reason or "no reason is known" for it in read if it.state == PARKED},
        in_effect=sum(it.in_effect for it in labelers),
        lag_seconds=None if behind is None else round(behind.lag_seconds, 1),
        lag_of=None if behind is None else behind.name,
        rejected_today=rejected_today(connection),
    )
