"""Retries of dead letters, after a fix, through the one write path. No cursor is moved."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from appview_pipeline.indexing.changes import Change, DeadLetter, RepoState
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.indexing.events import refusal
from appview_pipeline.indexing.exclusion import content_of
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.shared_rows import fingerprint
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.restore import restore
from appview_pipeline.ingest.verification import verifier_for
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.cbor import InvalidRecord, decode_as_sent
from appview_pipeline.protocol.record_json import record_from_json
from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import ASKED, enqueue
from appview_pipeline.store.database import Database
from appview_pipeline.store.dead_letters import (
    FROM_LABELERS,
    KnownRepo,
    StoredLetter,
    known_repo,
    letters_to_retry,
    mark_failed,
    mark_resolved,
)
from appview_pipeline.store.exclusion import excluded_of

log = logging.getLogger(__name__)

LETTERS_AT_ONCE = 200
"""Letters read from the database at a time."""
MAX_EXAMPLES = 20
EXCLUDED = "nothing of its account may be stored: it forbids the collection of its data, or it was deleted"


class NotRetriable(Exception):
    """A letter that can't be tried again; the message says why."""


class ToBeFetched(Exception):
    """A record that may be indexed today, of a repository of which an export was applied since. The record may have
    been changed or deleted before that, so only another export can say whether it is still there."""


class StillDead(NamedTuple):
    """Why a letter that was tried again stays dead: the kind to count by, and the reason in words."""

    kind: str
    reason: str


@dataclass
class RetrySummary:
    """What a retry of dead letters came to.

    `failed`: by the reason's kind; `impossible`: letters that can't be tried, by why; `examples`: (id, why) of some
    that are still dead.
    """

    tried: int = 0
    resolved: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    impossible: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, letter: StoredLetter, again: StillDead | None) -> None:
        """Counts a letter that was tried; None: it is resolved."""
        if again is None:
            self.resolved += 1
        else:
            self.failed[again.kind] += 1
            self._keep_example(letter, again.reason)

    def add_impossible(self, letter: StoredLetter, why: str) -> None:
        """Counts a letter that can't be tried, and why."""
        self.impossible[why] += 1
        self._keep_example(letter, why)

    def _keep_example(self, letter: StoredLetter, why: str) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append((letter.id, why))


OfLabelers = Callable[[Sequence[StoredLetter], RetrySummary], object]
"""Tries letters from labelers again, marks them and counts each of them in the summary."""


def retry_dead_letters(
    settings: Settings,
    database: Database,
    *,
    ids: Sequence[int] | None = None,
    kind: str | None = None,
    limit: int = 100_000,
    progress: Callable[[RetrySummary], object] = lambda so_far: None,
    of_labelers: OfLabelers | None = None,
) -> RetrySummary:
    """Tries the unresolved letters of `ids` (None: all) and `kind` (None: all) again, in the order in which they came.

    Whole frames go through decoding and verification, single records through validation. What passes is written as if
    it came late, which changes nothing that is newer. A letter that succeeds is marked resolved, one that fails gets
    its new reason. A single record that an export of its repository has overtaken is not written: its repository is
    fetched again. Letters from labelers are left to `of_labelers` (`labels.dead_letters.retry_dead_letters` passes it).
    """
    reader = _LetterReader(settings, database)
    summary = RetrySummary()
    after = 0
    while summary.tried < limit:
        with database.connect("maintenance") as connection:
            letters = letters_to_retry(
                connection, ids=ids, kind=kind, after=after, limit=min(LETTERS_AT_ONCE, limit - summary.tried)
            )
        if not letters:
            break
        after = letters[-1].id
        if of_labelers is not None:
            of_labelers([letter for letter in letters if letter.form in FROM_LABELERS], summary)
        for letter in letters:
            if of_labelers is not None and letter.form in FROM_LABELERS:
                continue
            try:
                again = _retry(settings, database, letter, reader)
            except NotRetriable as why:
                summary.add_impossible(letter, str(why))
            else:
                summary.add(letter, None if again is None else StillDead(again.kind, again.reason))
        summary.tried += len(letters)
        progress(summary)
    return summary


def _retry(settings: Settings, database: Database, letter: StoredLetter, reader: _LetterReader) -> DeadLetter | None:
    """Tries one letter again and marks it. The letter with its new reason where it stays dead; None where it does not.

    Raises `NotRetriable`.
    """
    try:
        change = reader.change_of(letter)
    except ToBeFetched:
        assert letter.did is not None
        with database.connect("writer") as connection:
            if enqueue(connection, [letter.did], reason="requested", priority=ASKED):
                log.info("%s is fetched again, for a record that may be indexed now", letter.did)
            mark_resolved(connection, letter)
        return None
    assert letter.content is not None
    own = _as_dead_letter(letter, letter.content, letter.kind, letter.reason)
    with database.connect("reader") as connection:
        if excluded_of(connection, content_of(change)):
            raise NotRetriable(EXCLUDED)
    (change,) = restore(database, [change])
    again = next((it for it in change.dead_letters if fingerprint(it) == fingerprint(own)), None)
    if again is None:
        reports = Writer(database, settings, f"retry:{letter.source}").write([change], time.time())
        if any(report.withheld for report in reports):
            raise NotRetriable(EXCLUDED)  # since a moment ago
        # The writer finds what PostgreSQL refuses only when it writes; for a single record that is this letter.
        rejected = [kind for report in reports for kind in report.rejected_by_kind]
        if letter.form != "frame" and rejected:
            kind, reason = "postgres", "PostgreSQL refuses it"
            if "time-out" in rejected:
                kind, reason = "time-out", "it takes PostgreSQL too long"
            again = own._replace(kind=kind, reason=reason)
    with database.connect("writer") as connection:
        if again is None:
            mark_resolved(connection, letter)
        else:
            mark_failed(connection, letter.id, again.kind, again.reason)
    return again


def content_of_letter(letter: StoredLetter) -> bytes:
    """The bytes of a letter. Raises `NotRetriable` where they were not kept whole."""
    if letter.content is None or letter.byte_length is None:
        raise NotRetriable("none of its bytes were kept")
    if len(letter.content) < letter.byte_length:
        raise NotRetriable("only a part of its bytes was kept (APPVIEW_DEAD_LETTER_BYTES)")
    return letter.content


class _LetterReader:
    """Makes changes of the bytes of letters, by the rules of today."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._validators = record_validators(settings.lexicon_dir)
        self._collections = IndexedCollections(settings.extra_collections)
        self._verifier = verifier_for(settings, database)

    def change_of(self, letter: StoredLetter) -> Change:
        """What the letter's bytes amount to today. Raises `NotRetriable` and `ToBeFetched`."""
        content = content_of_letter(letter)
        if letter.form == "frame":
            (change,) = read_changes([content], self._validators, self._collections, verifier=self._verifier)
            return change
        if letter.form not in ("block", "json"):
            raise NotRetriable("its bytes are no frame and no record")
        return self._change_of_record(letter, content)

    def _change_of_record(self, letter: StoredLetter, content: bytes) -> Change:
        did, path, rev, cid, moment = letter.did, letter.path, letter.rev, letter.cid, letter.event_time
        if did is None or path is None or rev is None or cid is None or moment is None:
            raise NotRetriable("where it came from was not noted")
        nsid, _, rkey = path.partition("/")
        collection = self._collections.get(nsid)
        if collection is None:
            raise NotRetriable(f"{nsid} is not indexed any more")
        with self._database.connect("reader") as connection:
            repo = known_repo(connection, did)
        if repo is None or repo.rev < rev:
            raise NotRetriable("nothing as new is known of its repository, which has to be fetched")
        change = Change(size=len(content), seq=letter.seq, time=moment, repo=_already_applied(did, rev, repo))
        as_sent = None
        try:
            if letter.form == "block":
                record, text, as_sent = decode_as_sent(content)
            else:
                text = content.decode()
                record = record_from_json(text)
        except (InvalidRecord, ValueError) as error:
            change.dead_letters.append(_as_dead_letter(letter, content, "record-invalid", str(error)))
            return change
        write = RecordWrite(
            uri=f"at://{did}/{path}",
            cid=cid,
            did=did,
            collection=nsid,
            rkey=rkey,
            rev=rev,
            record=record,
            json=text,
            indexed_at=moment,
            seq=letter.seq,
            action=letter.action or "create",
            is_quiet=bool(letter.quiet),
        )
        kind, reason = refusal(write, collection, self._validators.get(nsid), as_sent)
        if reason is None and repo.export_rev is not None and rev <= repo.export_rev:
            raise ToBeFetched
        if reason is None:
            change.writes.append(write)
            change.ops.append((nsid, write.action))
        else:
            change.dead_letters.append(_as_dead_letter(letter, content, kind, reason))
        return change


def _already_applied(did: str, rev: str, repo: KnownRepo) -> RepoState:
    """A state of the repository that is not newer than the applied one: it locks the repository and changes nothing.

    Its rev is known, because the rest of the letter's commit was applied when it came.
    """
    return RepoState(did=did, rev=rev, since=None, prev_data=None, commit=repo.commit, data=repo.data, is_sync=False)


def _as_dead_letter(letter: StoredLetter, content: bytes, kind: str, reason: str) -> DeadLetter:
    return DeadLetter(kind=kind, reason=reason, seq=letter.seq, did=letter.did, path=letter.path, bytes=content)
