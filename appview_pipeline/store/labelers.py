"""Labelers as they are stored (`pipeline.labeler`): which are read, from where, and how each of them is.

Cursors are moved forward by `store/labels.py`, in a batch's transaction, and nowhere else. All functions are part of
the caller's transaction, which is the caller's to commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

LOCK = "label process"
"""Name of the session lock that makes the label process the only one of its database."""

State = Literal["new", "connected", "waiting", "parked"]
"""`new`: not tried yet; `waiting`: tried again soon; `parked`: a person, or another DID document, has to help."""


@dataclass(frozen=True)
class StoredLabeler:
    """A row of `pipeline.labeler`, without its counts; the columns have comments."""

    did: str
    is_wanted: bool
    endpoint: str | None
    cursor: int
    state: State
    reason: str | None
    state_at: datetime
    caught_up_at: datetime | None
    reread_at: datetime | None


class LabelerIdentity(NamedTuple):
    """What `pipeline.identity` says of a labeler.

    `state`: of its DID; None: no answer yet. `endpoint`: `https://host`, None: its document names no label service.
    `key`: `did:key:...`, None: its document has none for labels. `error`: why there is no document, or no newer one.
    UNIX seconds: `resolved_at`, and `asked_at`, since when a newer answer is asked for (None: none is).
    """

    did: str
    state: str | None
    endpoint: str | None
    key: str | None
    error: str | None
    resolved_at: float | None
    asked_at: float | None


class LabelerState(NamedTuple):
    """How a labeler's stream is. `reason`: why it waits or is parked. `is_caught_up`: all that it has sent is applied,
    up to `cursor`."""

    did: str
    state: State
    reason: str | None
    is_caught_up: bool
    cursor: int


def _execute(connection: Connection, name: str, **parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sections("labels/labeler.sql")[name], parameters or None)
        return cursor.rowcount


def _fetch(connection: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sections("labels/labeler.sql")[name], parameters or None)
        return cursor.fetchall()


def popular_labelers(connection: Connection, limit: int) -> list[str]:
    """The labelers that the index knows of, those with the most likes first; without excluded accounts and those that
    are not active."""
    return [did for (did,) in _fetch(connection, "popular", limit=limit)]


def want(connection: Connection, dids: Sequence[str]) -> list[str]:
    """Has these labelers read and no others; returns them in the order of their DIDs, without excluded accounts."""
    return [did for (did,) in _fetch(connection, "want", dids=list(dids))]


def labelers(connection: Connection) -> list[StoredLabeler]:
    """Every labeler that is read or was read."""
    return [StoredLabeler(*row) for row in _fetch(connection, "all")]


def labeler_identities(connection: Connection, dids: Sequence[str]) -> dict[str, LabelerIdentity]:
    """What is known of those of `dids` that have a row in `pipeline.identity`; the network is not asked."""
    return {row[0]: LabelerIdentity(*row) for row in _fetch(connection, "identities", dids=list(dids))}


def open_labeler(connection: Connection, did: str, endpoint: str) -> int | None:
    """Notes the server of a labeler's stream (`wss://host`); returns the cursor to resume after, 0 where the server is
    another one than before. None where there is no such labeler (any more)."""
    rows = _fetch(connection, "open", did=did, endpoint=endpoint)
    return int(rows[0][0]) if rows else None


def set_states(connection: Connection, states: Sequence[LabelerState]) -> int:
    """Writes how streams are; where one has caught up, closes its gaps that were reread. Returns how many gaps."""
    if not states:
        return 0
    ordered = sorted(states)
    dids = [it.did for it in ordered]
    _fetch(connection, "lock", dids=dids)
    return _execute(
        connection,
        "states",
        dids=dids,
        states=[it.state for it in ordered],
        reasons=[it.reason for it in ordered],
        caught_up=[it.is_caught_up for it in ordered],
        cursors=[it.cursor for it in ordered],
    )


def note_gap(connection: Connection, did: str, after: int) -> bool:
    """Notes that labels after a sequence number may be missing, which the labeler's server does not keep any more.
    Returns whether that is new."""
    return _execute(connection, "gap", did=did, after=str(after)) == 1


def reread_gaps(connection: Connection, seconds: float) -> list[str]:
    """Begins the streams of labelers with new gaps anew, except where that was done less than `seconds` ago. Returns
    their DIDs."""
    return [did for (did,) in _fetch(connection, "reread_gaps", seconds=seconds)]


def reread(connection: Connection, did: str) -> bool:
    """Begins a labeler's stream anew from 0; returns whether there is such a labeler. A process that reads the stream
    notices within seconds. What is repeated changes nothing."""
    return _execute(connection, "reread", did=did) == 1
