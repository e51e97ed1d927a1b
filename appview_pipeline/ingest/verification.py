"""Verification of commits while frames are decoded: their proofs and their signatures (docs/verification.md).

`APPVIEW_VERIFY` says how much: `structure` nothing beyond `protocol/commit.py`; `proof` also that the operations of a
commit are what changed in its tree since `prevData`; `full` also that the account's key has signed it. The steps are
those of https://atproto.com/specs/sync#commit-validation.

Keys come from `pipeline.identity`, one query for the accounts of a batch that memory does not have. The network is
never asked here: an account without a known key is queued to be resolved, its commit is applied and stays listed
(`Change.unchecked`, `pipeline.unchecked_commit`) until `ingest/signatures.py` has checked it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, IdentityEvent, UncheckedCommit
from appview_pipeline.indexing.events import refused_event, skipped_commit
from appview_pipeline.protocol.commit import CommitContent, InvalidCommit, SyncContent, decode_commit, prove
from appview_pipeline.protocol.frames import Commit, Event, Identity, Sync
from appview_pipeline.protocol.signing import InvalidKey, VerifyingKey, parse_did_key, verify_commit
from appview_pipeline.settings import Settings
from appview_pipeline.store.applied import AppliedRevs, applied_revs
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.signatures import signing_keys

log = logging.getLogger(__name__)

PROOF = "commit-proof"
SIGNATURE = "commit-signature"
"""Kinds of dead letters: a commit whose proof is wrong, and one whose signature is."""
NOT_SIGNED = "the commit is not signed with the account's key"

Keys = Callable[[Collection[str]], Mapping[str, str]]
"""From accounts to their signing keys (did:key), of those whose key is known."""
Applied = Callable[[set[str]], Mapping[str, AppliedRevs]]
"""From repositories to the spans of revs known to be applied, of those that have one."""


class SigningKeys:
    """The signing keys of at most `accounts` accounts, each for `fresh_seconds`; the least recently used are forgotten
    first. Not for use by two threads."""

    def __init__(
        self, read: Keys, *, accounts: int, fresh_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._accounts = accounts
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._known: OrderedDict[str, tuple[VerifyingKey, float]] = OrderedDict()

    def load(self, dids: Iterable[str]) -> None:
        """Makes sure that the keys of these accounts are in memory, as far as they are known."""
        known, now = self._known, self._clock()
        unknown = [did for did in set(dids) if (entry := known.get(did)) is None or entry[1] <= now]
        if unknown:
            self.read_again(unknown)

    def read_again(self, dids: Collection[str]) -> None:
        """Reads these accounts' keys anew, whatever is in memory."""
        until = self._clock() + self._fresh_seconds
        for did in dids:
            self._known.pop(did, None)
        for did, text in self._read(dids).items():
            try:
                self._known[did] = VerifyingKey(parse_did_key(text)), until
            except InvalidKey as error:
                log.warning("The signing key of %s in pipeline.identity can't be used: %s", did, error)

    def get(self, did: str) -> VerifyingKey | None:
        """The key that memory has."""
        entry = self._known.get(did)
        if entry is None:
            return None
        self._known.move_to_end(did)
        return entry[0]

    def forget(self, did: str) -> None:
        """Drops an account's key, because it may have changed."""
        self._known.pop(did, None)

    def trim(self) -> None:
        """Forgets the least recently used accounts beyond the limit; between batches, so that a batch has all its
        keys."""
        while len(self._known) > self._accounts:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._known)


class Verifier:
    """Verifies the commits and #syncs of one stream, a batch at a time: `begin`, `check` for each, `conclude`. Used by
    the decoding thread only.

    `level`: `APPVIEW_VERIFY`. `applied`: looks up which revs are applied, so that a commit that comes again, after its
    account's key has changed, is no dead letter (None: nothing is looked up). `fresh_seconds`: how long a key is used
    before it is read again, and how long a commit that does not fit is no reason to resolve its account once more.
    """

    def __init__(
        self,
        level: str,
        keys: Keys,
        *,
        accounts: int = 100_000,
        fresh_seconds: float = 3_600.0,
        applied: Applied | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level = level
        self._keys = SigningKeys(keys, accounts=accounts, fresh_seconds=fresh_seconds, clock=clock)
        self._applied = applied
        self._clock = clock
        self._accounts = accounts
        self._fresh_seconds = fresh_seconds
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._unfit: set[str] = set()  # accounts with a signature in this batch that does not fit the key in memory
        self._has_refused = False

    def begin(self, events: Iterable[Event | Change]) -> None:
        """Begins a batch of these events: reads the keys that are needed and not in memory."""
        self._unfit.clear()
        self._has_refused = False
        if self.level != "full":
            return
        dids = []
        for event in events:
            if type(event) is Commit:
                dids.append(event.repo)
            elif type(event) is Sync:
                dids.append(event.did)
            elif type(event) is Identity:
                self._keys.forget(event.did)
        self._keys.trim()
        self._keys.load(dids)

    def check(self, event: Commit | Sync, content: CommitContent | SyncContent) -> UncheckedCommit | None:
        """Checks one event, as `indexing.events.Check` says. Raises InvalidCommit (kind `commit-proof`)."""
        if self.level == "structure":
            return None
        if isinstance(event, Commit):
            assert isinstance(content, CommitContent)
            did = event.repo
            try:
                prove(event, content)
            except InvalidCommit:
                self._has_refused = True
                raise
        else:
            did = event.did
        if self.level != "full":
            return None
        key = self._keys.get(did)
        if key is not None:
            if verify_commit(key, content.block, content.sig):
                return None
            self._unfit.add(did)
        return UncheckedCommit(did, event.rev, event.seq, content.block)

    def conclude(self, events: Sequence[Event | Change], frames: Sequence[bytes], changes: list[Change]) -> None:
        """Ends a batch: decides about the signatures that did not fit, in `changes`, which are those of `events`.

        Their accounts' keys are read once more. A commit that fits now is applied; of the others whole frames are dead
        letters (kind `commit-signature`), and their accounts are queued to be resolved. A refused commit that turns out
        to be applied already is skipped instead.
        """
        if self._unfit:
            self._keys.read_again(self._unfit)
            for index, (event, change) in enumerate(zip(events, changes, strict=True)):
                unchecked = change.unchecked
                if unchecked is None or unchecked.did not in self._unfit:
                    continue
                key = self._keys.get(unchecked.did)
                if key is None:
                    continue  # not known any more: as if it never had been
                if is_signed(key, unchecked.block):
                    change.unchecked = None
                else:
                    assert isinstance(event, Commit | Sync)
                    changes[index] = self._refused(event, frames[index])
                    self._has_refused = True
        if self._has_refused and self._applied is not None:
            self._skip_applied(events, frames, changes)

    def _refused(self, event: Commit | Sync, frame: bytes) -> Change:
        """The change of an event that is not signed with the key that we know."""
        change = refused_event(event, frame, InvalidCommit(SIGNATURE, NOT_SIGNED))
        did = event.repo if isinstance(event, Commit) else event.did
        now = self._clock()
        if self._asked.get(did, float("-inf")) + self._fresh_seconds <= now:
            assert change.time is not None
            change.identity = IdentityEvent(did, change.time, event.seq)
            self._asked[did] = now
            self._asked.move_to_end(did)
            while len(self._asked) > self._accounts:
                self._asked.popitem(last=False)
        return change

    def _skip_applied(self, events: Sequence[Event | Change], frames: Sequence[bytes], changes: list[Change]) -> None:
        refused = {
            index: event
            for index, (event, change) in enumerate(zip(events, changes, strict=True))
            if isinstance(event, Commit) and any(it.kind in (PROOF, SIGNATURE) for it in change.dead_letters)
        }
        assert self._applied is not None
        spans = self._applied({event.repo for event in refused.values()})
        for index, event in refused.items():
            if (span := spans.get(event.repo)) is not None and event.rev in span:
                changes[index] = skipped_commit(event, frames[index])


def is_signed(key: VerifyingKey, block: bytes) -> bool:
    """Whether a commit object, given as its block, is signed with a key. Raises InvalidCommit where it is none."""
    return verify_commit(key, block, decode_commit(block)["sig"])


def verifier_for(settings: Settings, database: Database) -> Verifier:
    """The verifier of a stream that goes into `database`, at the level of the settings.

    While the database is away no key is known: it is for the writer to wait, which applies nothing meanwhile. What was
    decoded then is checked later, as with keys that are really unknown.
    """

    def keys(dids: Collection[str]) -> Mapping[str, str]:
        try:
            with database.connect("reader") as connection:
                return signing_keys(connection, dids)
        except (DatabaseError, OperatorError) as error:
            log.warning("Signing keys can't be read; the commits of this batch are checked later: %s", error)
            return {}

    def applied(dids: set[str]) -> Mapping[str, AppliedRevs]:
        try:
            with database.connect("reader") as connection:
                return applied_revs(connection, dids)
        except (DatabaseError, OperatorError) as error:
            log.warning("It can't be looked up whether refused commits are applied already: %s", error)
            return {}

    return Verifier(
        settings.verify,
        keys,
        accounts=settings.identity_cache,
        fresh_seconds=settings.identity_fresh_seconds,
        applied=applied,
    )
