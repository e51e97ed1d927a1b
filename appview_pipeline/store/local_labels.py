"""What is known of labels before they are made here (sql/labels/service.sql). Under the label lock it holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.sql import sections

MAX_VERSIONS = 1_000
"""Versions of a record whose labels of one value are found; one negation ends all of them in our index."""


@dataclass
class KnownLabel:
    """A (uri, val, cid) of one source. `newest` and `negated`: the moments of its newest event and of the newest
    negation of (uri, val), in microseconds since 1970; None: there is none. `exp`: as in `bsky.label`."""

    newest: int | None
    negated: int | None
    is_in_effect: bool
    exp: str | None


@dataclass
class KnownValue:
    """A (uri, val) of one source. `newest`: the moment of its newest event, of whatever CID. `in_effect`: the CIDs ('':
    of any version) of labels of it that are in effect, at most `MAX_VERSIONS`."""

    newest: int | None
    in_effect: set[str]


def known_labels(
    connection: Connection, src: str, keys: Collection[tuple[str, str, str]], *, now: str
) -> dict[tuple[str, str, str], KnownLabel]:
    """What is known of each (uri, val, cid) of a source. `now`: as in `bsky.label`, by which labels have expired."""
    found = _known(connection, "labels", src, keys, ("uris", "vals", "cids"), now)
    return {key: KnownLabel(*row) for key, row in found.items()}


def known_values(
    connection: Connection, src: str, keys: Collection[tuple[str, str]], *, now: str
) -> dict[tuple[str, str], KnownValue]:
    """What is known of each (uri, val) of a source."""
    found = _known(connection, "values", src, keys, ("uris", "vals"), now)
    return {key: KnownValue(newest, set(cids)) for key, (newest, cids) in found.items()}


def _known(
    connection: Connection, statement: str, src: str, keys: Collection[Any], names: tuple[str, ...], now: str
) -> dict[Any, tuple[Any, ...]]:
    listed = list(keys)
    if not listed:
        return {}
    columns = {name: list(column) for name, column in zip(names, zip(*listed, strict=True), strict=True)}
    values = {"src": src, "now": now, "versions": MAX_VERSIONS}
    with connection.cursor() as cursor:
        cursor.execute(sections("labels/service.sql")[statement], values | columns)
        return {listed[number - 1]: tuple(row) for number, *row in cursor.fetchall()}
