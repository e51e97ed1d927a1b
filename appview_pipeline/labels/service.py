"""The label service: labels that the operator makes here, as the labeler `APPVIEW_LABELER_DID` (docs/labels.md).

They are signed with `APPVIEW_LABELER_KEY` where it is set, and stored, broadcast and served as those of any labeler.
All that is said here of one subject and value counts in the order in which it was said, whatever the clock does: each
label is dated later than what it replaces, by a millisecond at least.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.show import find_account
from appview_pipeline.ingest.rerun import retry_while_busy
from appview_pipeline.labels.decoding import row_of
from appview_pipeline.protocol.commit import FUTURE_TOLERANCE
from appview_pipeline.protocol.label import VERSION, InvalidLabel, Label, read_label, sign_label
from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.protocol.syntax import (
    EPOCH,
    format_milliseconds,
    is_handle,
    normalize_datetime,
    parse_at_uri,
    without_decoration,
)
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities, label_query
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.label_query import LabelPage, QueriedLabel
from appview_pipeline.store.labels import LabelBatch, lock_labels
from appview_pipeline.store.labels import apply_labels as apply_batch
from appview_pipeline.store.local_labels import KnownLabel, KnownValue, known_labels, known_values

__all__ = [
    "Applied",
    "LabelPage",
    "LabelRequest",
    "QueriedLabel",
    "apply_labels",
    "find_labels",
    "negate_labels",
    "query_labels",
]

_log = logging.getLogger(__name__)

BATCH = 1_000
"""Labels that one transaction makes. Signing them takes about 0.05 s, for which it holds the label lock."""


_ANY_MOMENT = 1 << 62
"""No label is later, in microseconds since 1970."""

LISTED_AT_ONCE = 1_000
"""Labels of one page, where many are listed."""


@dataclass(frozen=True)
class LabelRequest:
    """A label to be made, or (`neg`) taken back.

    `subject`: an AT URI of a record, or an account's DID; a handle may stand for a DID that is known. `cid`: the one
    version of the record that is meant; None: all. A negation ends the labels of all versions. `exp`: when it ends, as
    a datetime; None: never.
    """

    subject: str
    val: str
    cid: str | None = None
    exp: str | None = None
    neg: bool = False


@dataclass
class Applied:
    """What became of requests: of the `requests`, `refused` ones were not valid, and `unchanged` ones asked for what is
    so already. `labels` and `negations` were made."""

    requests: int = 0
    labels: int = 0
    negations: int = 0
    unchanged: int = 0
    refused: int = 0

    @property
    def changed(self) -> int:
        """Labels and negations that were made."""
        return self.labels + self.negations


class _Wanted(NamedTuple):
    """A request that is valid. `exp`: as `bsky.label` has it."""

    uri: str
    val: str
    cid: str | None
    exp: str | None
    neg: bool

    @property
    def value(self) -> tuple[str, str]:
        return self.uri, self.val

    @property
    def key(self) -> tuple[str, str, str]:
        return self.uri, self.val, self.cid or ""


@dataclass
class _Subjects:
    """The DIDs of handles, each asked for once."""

    known: dict[str, str] = field(default_factory=dict)

    def did(self, connection: Connection, account: str) -> str:
        if (found := self.known.get(account)) is None:
            if (found := find_account(connection, account)) is None:
                raise OperatorError(f"no account is known to have the handle {account[:300]}: give its DID.")
            if found != account:
                self.known[account] = found
        return found

    def uri(self, connection: Connection, subject: str) -> str:
        """The subject as labels name it. Raises OperatorError."""
        if not subject.startswith("at://"):
            return self.did(connection, subject)
        parts = parse_at_uri(subject)
        if parts is None:
            raise OperatorError(f"{subject[:300]!r} is not an AT URI: at://<DID>/<collection>/<record key>.")
        did = self.did(connection, parts.authority)
        if parts.collection is None:
            return did
        if parts.rkey is None:
            raise OperatorError(f"{subject[:300]!r} names no record: at://<DID>/<collection>/<record key>.")
        return f"at://{did}/{parts.collection}/{parts.rkey}"


def apply_labels(
    settings: Settings,
    database: Database,
    requests: Iterable[LabelRequest],
    *,
    force: bool = False,
    refuse: Callable[[int, str], None] | None = None,
    progress: Callable[[Applied], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Applied:
    """Makes labels, any number of them, in transactions of `BATCH`.

    What is so already is not said again: a label that is in effect until the same moment, and the negation of a value
    that is not in effect. So an interrupted run can be repeated. With `force` it is said all the same: for others who
    have missed it, or to sign what was made before there was a key.

    `refuse` is called with the place of each request that is not valid (from 0) and a sentence, and the others are
    applied; without it the first of these raises OperatorError, and nothing of its batch is applied. `progress` is
    called after each batch. `clock`: UNIX seconds.

    Raises OperatorError where APPVIEW_LABELER_DID is not set, and where that account has opted out.
    """
    src = labeler_did(settings)
    _warn_of_other_key(settings, database, src)
    done, subjects, remaining = Applied(), _Subjects(), iter(requests)
    while batch := list(islice(remaining, BATCH)):
        with database.connect("writer") as connection:
            wanted = list(_valid(connection, subjects, src, batch, done, refuse, clock))
            made = retry_while_busy(connection, partial(_make, connection, settings, src, wanted, force, clock))
        done.requests += len(batch)
        done.labels += sum(not label.neg for label in made.labels)
        done.negations += sum(label.neg for label in made.labels)
        done.unchanged += made.unchanged
        if progress is not None:
            progress(done)
    return done


def negate_labels(
    settings: Settings,
    database: Database,
    requests: Iterable[LabelRequest],
    *,
    force: bool = False,
    refuse: Callable[[int, str], None] | None = None,
    progress: Callable[[Applied], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Applied:
    """Takes labels back, of all versions of their subjects: `apply_labels` of the negations of `requests`.

    Only what is in effect is taken back: the negation of anything else would change nothing, and stay for good. Of
    several versions with a label each gets a negation, since there are readers to whom versions are different labels.
    """
    return apply_labels(
        settings,
        database,
        (replace(request, neg=True) for request in requests),
        force=force,
        refuse=refuse,
        progress=progress,
        clock=clock,
    )


def query_labels(
    database: Database,
    *,
    subjects: Sequence[str] = (),
    sources: Sequence[str] = (),
    values: Sequence[str] = (),
    with_negated: bool = False,
    with_expired: bool = False,
    oldest_first: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> LabelPage:
    """One page of labels, of all labelers (`store.label_query.query_page`, which says what the arguments mean)."""
    with database.connect("reader") as connection:
        return label_query.query_page(
            connection,
            subjects=subjects,
            sources=sources,
            values=values,
            with_negated=with_negated,
            with_expired=with_expired,
            oldest_first=oldest_first,
            cursor=cursor,
            limit=limit,
        )


def find_labels(
    database: Database, *, limit: int, subjects: Sequence[str] = (), sources: Sequence[str] = (), **asked: Any
) -> Iterator[QueriedLabel]:
    """The first `limit` labels of a query, page by page; its arguments are those of `query_labels`.

    Handles may stand for accounts among the subjects and sources. Raises OperatorError where they are not known, and
    where a source is neither a DID nor a handle.
    """
    with database.connect("reader") as connection:
        named = _Subjects()
        uris = [named.uri(connection, it) if _has_handle(it) else it for it in subjects]
        asked["sources"] = [named.did(connection, it) for it in sources]
    cursor: str | None = None
    while limit > 0:
        page = query_labels(database, subjects=uris, cursor=cursor, limit=min(limit, LISTED_AT_ONCE), **asked)
        yield from page.labels
        limit -= len(page.labels)
        cursor = page.cursor
        if cursor is None:
            return


def _has_handle(subject: str) -> bool:
    """Whether a subject is, or begins with, a handle; a pattern never counts as one."""
    parts = parse_at_uri(subject)
    return is_handle(without_decoration(subject)) if parts is None else not parts.authority.startswith("did:")


def labeler_did(settings: Settings) -> str:
    """The DID that labels made here are from. Raises OperatorError where the settings have none."""
    if settings.labeler_did is None:
        raise OperatorError("Labels made here need a source: set APPVIEW_LABELER_DID to the DID of your labeler.")
    return settings.labeler_did


def _warn_of_other_key(settings: Settings, database: Database, src: str) -> None:
    """Says where labels are signed with a key that nobody will verify them by, as far as is known here."""
    if settings.labeler_key is None:
        return
    with database.connect("reader") as connection:
        known = identities.read(connection, [src]).get(src)
    ours = public_key_of(settings.labeler_key).did_key()
    if known is not None and known.state == "found" and known.labeler_key != ours:
        _log.warning(
            "labels are signed with a key (%s) that is not #atproto_label of the DID document of %s (%s): others will "
            "refuse them",
            ours,
            src,
            known.labeler_key or "it has none",
        )


def _valid(
    connection: Connection,
    subjects: _Subjects,
    src: str,
    batch: Sequence[LabelRequest],
    done: Applied,
    refuse: Callable[[int, str], None] | None,
    clock: Callable[[], float],
) -> Iterator[_Wanted]:
    """The requests that are valid, in order."""
    for place, request in enumerate(batch, done.requests):
        try:
            yield _checked(connection, subjects, src, request, clock)
        except OperatorError as error:
            if refuse is None:
                raise
            done.refused += 1
            refuse(place, str(error))


def _checked(
    connection: Connection, subjects: _Subjects, src: str, request: LabelRequest, clock: Callable[[], float]
) -> _Wanted:
    """A request as it is meant. Raises OperatorError."""
    uri, cid, exp = subjects.uri(connection, request.subject), request.cid or None, request.exp or None
    now = format_milliseconds(int(clock() * 1_000))
    if cid is not None and not uri.startswith("at://"):
        raise OperatorError(f"{uri} is an account, which has no CID: leave it out.")
    if exp is not None:
        if request.neg:
            raise OperatorError("A negation does not expire: leave `exp` out.")
        given, exp = exp, normalize_datetime(exp)
        if exp == EPOCH or exp <= now:
            raise OperatorError(f"{given[:100]!r} is not a datetime in the future, such as 2030-12-31T00:00:00Z.")
    fields = {"ver": VERSION, "src": src, "uri": uri, "cid": cid, "val": request.val, "cts": now, "exp": exp}
    try:
        read_label(fields, _ANY_MOMENT)
    except InvalidLabel as error:
        raise OperatorError(f"{request.val[:200]!r} of {uri[:300]} is not a valid label: {error.reason}.") from None
    return _Wanted(uri, request.val, cid, exp, request.neg)


class _Made(NamedTuple):
    """Labels that were made, and the number of requests that asked for what was so already."""

    labels: list[Label]
    unchanged: int


def _make(
    connection: Connection,
    settings: Settings,
    src: str,
    wanted: Sequence[_Wanted],
    force: bool,
    clock: Callable[[], float],
) -> _Made:
    """Makes the labels of one batch and commits."""
    lock_labels(connection)
    # Only now, with the lock, is it certain that nobody else says anything of the same subjects and values.
    now = int(clock() * 1_000)
    at = format_milliseconds(now)
    said = _Said(
        known_values(connection, src, {it.value for it in wanted if it.neg}, now=at),
        known_labels(connection, src, {it.key for it in wanted if not it.neg}, now=at),
    )
    labels, unchanged, latest = [], 0, now
    for it in wanted:
        if not force and said.is_so(it):
            unchanged += 1
            continue
        millis = max(now, said.newest(it) // 1_000 + 1)
        latest = max(latest, millis)
        cts = format_milliseconds(millis)
        labels += [_signed(settings.labeler_key, src, it, cid, cts) for cid in said.versions(it)]
        said.say(it, millis * 1_000)
    report = apply_batch(connection, LabelBatch([row_of(label, None) for label in labels])) if labels else None
    connection.commit()
    if report is not None and report.withheld:
        raise OperatorError(
            f"Nothing new of {src} (APPVIEW_LABELER_DID) may be stored, since it has opted out or was deleted: "
            f"see `appview-pipeline identity show {src}`."
        )
    if (latest - now) * 1_000 > FUTURE_TOLERANCE:
        _log.warning(
            "labels are dated %d s ahead, to be later than earlier ones of the same subjects: was the clock set back?",
            (latest - now) // 1_000,
        )
    return _Made(labels, unchanged)


class _Said:
    """What is known of the labels of one batch, and what the batch itself has said so far. Moments in microseconds.

    `values`: of the requests that are negations; `keys`: of the others.
    """

    def __init__(self, values: dict[tuple[str, str], KnownValue], keys: dict[tuple[str, str, str], KnownLabel]) -> None:
        self._values = values
        self._keys = keys
        self._of_value: dict[tuple[str, str], list[KnownLabel]] = {}
        for key, known in keys.items():
            self._of_value.setdefault(key[:2], []).append(known)

    def is_so(self, it: _Wanted) -> bool:
        """Whether a request would change nothing."""
        if it.neg:
            return not self._values[it.value].in_effect
        known = self._keys[it.key]
        return known.is_in_effect and known.exp == it.exp

    def newest(self, it: _Wanted) -> int:
        """The moment of the newest event that the label or negation replaces."""
        if it.neg:
            return self._values[it.value].newest or 0
        known = self._keys[it.key]
        return max(known.newest or 0, known.negated or 0)

    def versions(self, it: _Wanted) -> list[str | None]:
        """The CIDs of the labels or negations that a request asks for."""
        if not it.neg or it.cid is not None:
            return [it.cid]
        return [cid or None for cid in sorted(self._values[it.value].in_effect)] or [None]

    def say(self, it: _Wanted, micros: int) -> None:
        """Notes that what a request asks for is made."""
        value = self._values.get(it.value)
        if value is not None:
            value.newest = max(value.newest or 0, micros)
        if it.neg:
            if value is not None:
                value.in_effect.clear()
            for known in self._of_value.get(it.value, ()):
                known.negated, known.is_in_effect = micros, False
        else:
            if value is not None:
                value.in_effect.add(it.cid or "")
            known = self._keys[it.key]
            known.newest, known.is_in_effect, known.exp = micros, True, it.exp


def _signed(key: bytes | None, src: str, it: _Wanted, cid: str | None, cts: str) -> Label:
    """The label, with a signature where there is a key."""
    if key is not None:
        return sign_label(key, src=src, uri=it.uri, val=it.val, cid=cid, neg=it.neg, cts=cts, exp=it.exp)
    fields = {"ver": VERSION, "src": src, "uri": it.uri, "cid": cid, "val": it.val}
    return read_label({**fields, "neg": it.neg, "cts": cts, "exp": it.exp}, _ANY_MOMENT)
