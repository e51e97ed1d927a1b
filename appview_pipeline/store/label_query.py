"""Labels as people and other services ask for them: by subject, source and value, page by page (sql/labels/query.sql).

The newest label or negation of each (src, uri, cid, val) is found, as its labeler signed it. What has been negated or
has expired is left out unless it is asked for.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import orjson
from psycopg2.extensions import connection as Connection

from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import named, sections

MAX_EXAMINED = 5_000
"""Rows that one page looks at; a page may therefore hold fewer labels than its limit, or none, and still have a
cursor."""

EVERYTHING = "*"
"""The pattern of all subjects."""

_LAST = "\U0010ffff"
"""No character, so no URI that begins with a prefix is later than the prefix with this."""
_FIRST = "\x01"
"""Nothing is between a text and the text with this."""
_LAST_ID = (1 << 63) - 1


class InvalidCursor(ValueError):
    """A cursor that no page of such a query had."""


class QueriedLabel(NamedTuple):
    """The label event that decides what `bsky.label` says of its key. `id`: of the event, rising as events are applied.

    `cid`: '' for any version. `neg`: a negation. `cts` and `exp`: as signed. `signed`: the bytes under `sig` where they
    are not the canonical ones.
    """

    id: int
    src: str
    uri: str
    cid: str
    val: str
    neg: bool
    cts: str
    exp: str | None
    sig: bytes | None
    signed: bytes | None
    received_at: datetime

    def as_json(self) -> dict[str, Any]:
        """For people and their tools: what is said, and when it was received; the signature in base64."""
        label: dict[str, Any] = {"id": self.id, "src": self.src, "uri": self.uri}
        if self.cid:
            label["cid"] = self.cid
        label |= {"val": self.val, "neg": self.neg, "cts": self.cts}
        if self.exp is not None:
            label["exp"] = self.exp
        if self.sig is not None:
            label["sig"] = urlsafe_b64encode(self.sig).decode()
        return {**label, "receivedAt": self.received_at}

    def line(self) -> str:
        """For people, on one line."""
        negated = "not " if self.neg else ""
        version = f"  {self.cid}" if self.cid else ""
        until = f"  until {self.exp}" if self.exp is not None else ""
        unsigned = "" if self.sig is not None else "  unsigned"
        return f"{self.uri}{version}  {negated}{self.val}  by {self.src}  {self.cts}{until}{unsigned}"


@dataclass(frozen=True)
class LabelPage:
    """Labels, and the cursor that the next page begins after; None: there are no more."""

    labels: list[QueriedLabel]
    cursor: str | None


def query_page(
    connection: Connection,
    *,
    subjects: Collection[str] = (),
    sources: Collection[str] = (),
    values: Collection[str] = (),
    with_negated: bool = False,
    with_expired: bool = False,
    oldest_first: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> LabelPage:
    """One page of at most `limit` labels.

    `subjects`: AT URIs and DIDs, or prefixes of them that end with `*`; none, or `*` alone, for all. `sources` (DIDs of
    labelers) and `values`: none for all. Of given subjects the labels come in order of subject, source, value and CID;
    of all subjects by the ids of their events, the newest first or (`oldest_first`) last.

    While labels come, a label that stays as it is appears exactly once in the pages of a query. A page may be shorter
    than `limit`, or empty, and have a cursor (`MAX_EXAMINED`). Raises InvalidCursor.
    """
    asked: dict[str, Any] = {
        "sources": sorted(set(map(findable, sources))) or None,
        "vals": sorted(set(map(findable, values))) or None,
        "with_expired": with_expired,
        "examined": max(MAX_EXAMINED, limit),
        "limit": limit,
    }
    if subjects and EVERYTHING not in subjects:
        ranges = _ranges(subjects, asked["sources"] or (), tuple(_decoded(cursor, ["", "", "", ""])))
        if not ranges:
            return LabelPage([], None)
        asked |= {name: list(column) for name, column in zip(_Range._fields, zip(*ranges, strict=True), strict=True)}
        statement = _by_subject(with_negated)
        key_length = 4
    else:
        asked |= {"id": _decoded(cursor, [0 if oldest_first else _LAST_ID])[0]}
        statement = _by_id(with_negated, bool(sources), oldest_first)
        key_length = 1
    with connection.cursor() as cursor_:
        # The planner does not know the ranges. It would sort all that might be in them, where an index has the order.
        cursor_.execute("SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off")
        cursor_.execute(statement, asked)
        rows = cursor_.fetchall()
    examined, *reached = rows[0][: 1 + key_length]
    labels = [_label(row[1 + key_length :]) for row in rows if row[1 + key_length] is not None]
    if len(labels) == limit:
        newest = labels[-1]
        key = [newest.id] if key_length == 1 else [newest.uri, newest.src, newest.val, newest.cid]
        return LabelPage(labels, _encoded(key))
    return LabelPage(labels, _encoded(reached) if examined == asked["examined"] else None)


def findable(text: str) -> str:
    """A text to look for: itself, or the empty one, which is nobody's, where PostgreSQL can't hold it (U+0000, half a
    character)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return ""
    return "" if "\0" in text else text


_KEY = ("uri", "src", "val", "cid")


class _Range(NamedTuple):
    """Labels after (uri, src, val, cid) and before (end_uri, end_src), in byte order."""

    uri: str
    src: str
    val: str
    cid: str
    end_uri: str
    end_src: str


def _ranges(subjects: Collection[str], sources: Collection[str], after: tuple[str, ...]) -> list[_Range]:
    """The ranges that patterns stand for, from a key on, merged where they overlap."""
    merged: list[_Range] = []
    # No label has an empty value, so (uri, src, "", "") comes before all labels of a subject and source.
    for (uri, src), end in sorted(_spans(subjects, sources)):
        if merged and (uri, src) <= merged[-1][4:]:
            merged[-1] = _Range(*merged[-1][:4], *max(merged[-1][4:], end))
        else:
            merged.append(_Range(uri, src, "", "", *end))
    return [it._replace(**dict(zip(_KEY, max(it[:4], after), strict=True))) for it in merged if after[:2] < it[4:]]


def _spans(subjects: Collection[str], sources: Collection[str]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """The (uri, src) with which the labels of each pattern begin, and the one that they come before."""
    for subject in subjects:
        if findable(subject) != subject:
            continue
        if subject.endswith("*"):
            yield (subject[:-1], ""), (subject[:-1] + _LAST, "")
        elif not sources:
            yield (subject, ""), (subject + _FIRST, "")
        else:
            for source in sources:
                yield (subject, source), (subject, source + _FIRST)


@cache
def _by_subject(with_negated: bool) -> str:
    return _filled(
        "by_subject", {"{rows}": sections("labels/query.sql")["rows_with_negated" if with_negated else "rows"]}
    )


@cache
def _by_id(with_negated: bool, of_sources: bool, oldest_first: bool) -> str:
    names = {
        "{events}": sections("labels/query.sql")["events_of_sources" if of_sources else "events"],
        "{condition}": "" if with_negated else "AND NOT v.neg",
        "{after}": ">" if oldest_first else "<",
        "{direction}": "ASC" if oldest_first else "DESC",
    }
    return _filled("by_id", names)


def _filled(name: str, names: Mapping[str, str]) -> str:
    parts = sections("labels/query.sql")
    shared = {f"{{{part}}}": parts[part] for part in ("of_row", "wanted", "unexpired")}
    return named(fill_placeholders(parts[name], {**names, **shared}), f"query.{name}")


def _label(row: Sequence[Any]) -> QueriedLabel:
    label = QueriedLabel(*row)
    return label._replace(
        sig=None if label.sig is None else bytes(label.sig),
        signed=None if label.signed is None else bytes(label.signed),
    )


def _encoded(key: Sequence[object]) -> str:
    return urlsafe_b64encode(orjson.dumps(key)).decode().rstrip("=")


def _decoded(cursor: str | None, beginning: list[Any]) -> list[Any]:
    """The key that a cursor holds: values like those of `beginning`, which stands for no cursor."""
    if cursor is None:
        return beginning
    try:
        key = orjson.loads(urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except ValueError:
        key = None
    if (
        not isinstance(key, list)
        or list(map(type, key)) != list(map(type, beginning))
        or any(isinstance(value, int) and not 0 <= value <= _LAST_ID for value in key)
        or any(isinstance(value, str) and "\0" in value for value in key)
    ):
        raise InvalidCursor("The cursor is none of this query.")
    return key
