"""Repositories and single records fetched from their PDSes, and proved to be their accounts'."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from appview_pipeline.backfill.spool import new_spool
from appview_pipeline.backoff import RESOLUTION_ANEW_SECONDS, RESOLUTION_CLAIM_SECONDS
from appview_pipeline.identity.attempt import attempt
from appview_pipeline.identity.cache import EXCLUDED, IdentityCache, KnownIdentity
from appview_pipeline.identity.questions import questions_over
from appview_pipeline.network.fetch_errors import FetchError, XrpcError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.export import Export, InvalidExport, read_export
from appview_pipeline.protocol.signing import InvalidKey, PublicKey, parse_did_key, verify_commit
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database

GET_REPO = "com.atproto.sync.getRepo"
GET_RECORD = "com.atproto.sync.getRecord"
MAX_PROOF = 5_000_000
"""Bytes of a proof of one record: the record, and the nodes above it."""
MAX_ANEW = 100_000
"""Accounts of which is remembered when they were resolved anew."""


class FetchFailed(Exception):
    """A repository or a record that could not be had. `str()` and `reason` say why, as a part of a sentence.

    `kind`: a short constant to count by: a kind of `FetchError` ("timeout", "parked", ...), "gone" (the PDS has no such
    repository, or does not give it out), "refused" (it answers with another error of what was asked for), "not found"
    (there is no such record), "excluded", "identity" (no PDS or key is known), "signature", "older rev", "disk", or
    "export: " and a kind of `InvalidExport`.
    `is_final`: trying again is useless for long: the account is gone, deactivated or taken down, or the record is not
    there. `retry_after`: seconds after which trying again makes sense, where the server said so. `blames_account`:
    False where the failure says nothing about the account (its host is parked, its breaker open, no place was free), so
    that it is no failed attempt. `host`: origin of the PDS that was asked (`https://host`), where one is known.
    """

    def __init__(
        self,
        kind: str,
        reason: str,
        *,
        is_final: bool = False,
        retry_after: float | None = None,
        blames_account: bool = True,
        host: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.is_final = is_final
        self.retry_after = retry_after
        self.blames_account = blames_account
        self.host = host


@dataclass(frozen=True, slots=True)
class FetchedRecord:
    """A record as its repository proves it at `rev`. `cid` (36 bytes) and `block` are None where the repository proves
    that there is no record at the path. `commit`, `data`: CIDs of the commit and of the tree's root, as in `Export`."""

    did: str
    path: str
    rev: str
    commit: bytes
    data: bytes
    cid: bytes | None
    block: bytes | None


_GONE = frozenset({"RepoNotFound", "RepoDeactivated", "RepoTakendown", "RepoSuspended"})
"""Errors of com.atproto.sync.*: the PDS does not give the repository out. Whether the account still exists is for the
relay's events and the PDS's getRepoStatus to say."""
_MAY_HAVE_MOVED = frozenset({"gone", "refused", "signature", "older rev", "export: account"})
"""What an old PDS answers after an account has moved, or with an old key: it counts after a fresh resolution only."""

Answer = TypeVar("Answer")


class Fetcher:
    """Fetches over one client. Safe to share between threads.

    What counts is signed with the account's key, whoever sent it. The PDS and the key are those of the DID document; an
    answer that would be an error of the PDS is asked for once more where a fresh resolution finds another PDS or key.
    """

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._settings = settings
        self._client = client
        asked = questions_over(client, settings)
        self._lock = threading.Lock()
        # When accounts were resolved anew, the oldest first, and whether that is done.
        self._anew: OrderedDict[str, tuple[float, threading.Event]] = OrderedDict()
        self._identities = IdentityCache(database, settings, lambda wanted: attempt(wanted, asked))

    def host_of(self, did: str) -> str:
        """The origin of an account's PDS (`https://host`), resolved now if need be. Raises `FetchFailed`."""
        return _pds(self._identities.get(did))

    def repository(self, did: str, *, newer_than: str | None = None) -> Export:
        """The export of an account's repository, its commit and signature checked; the caller closes it.

        One with a rev below `newer_than` is refused. Raises `FetchFailed`. The tree and the blocks are checked while
        they are read: `Export.records` and `Export.block` raise `protocol.export.InvalidExport`, of which
        `export_failed` makes the failure.
        """
        return self._asked(did, lambda identity: self._repository(identity, newer_than))

    def record(self, did: str, collection: str, rkey: str) -> FetchedRecord:
        """A record of an account, or the proof that there is none. Raises `FetchFailed`."""
        return self._asked(did, lambda identity: self._record(identity, collection, rkey))

    # --- whom to ask, and with which key -----------------------------------------------------------------------------

    def _asked(self, did: str, ask: Callable[[KnownIdentity], Answer]) -> Answer:
        """What the account's PDS answers; asked once more if it turns out that the account has moved, or a new key."""
        began = time.time()
        identity = self._identities.get(did)
        try:
            return ask(identity)
        except FetchFailed as error:
            if error.kind not in _MAY_HAVE_MOVED:
                raise
            first = error
        fresh = identity if _is_since(identity, began) else self._resolved_anew(did, first)
        has_moved = fresh.pds != identity.pds
        if not has_moved and (first.kind != "signature" or fresh.signing_key == identity.signing_key):
            raise first
        return ask(fresh)

    def _resolved_anew(self, did: str, why: FetchFailed) -> KnownIdentity:
        """The account's identity as of now, or as of a fresh resolution not long ago, which another thread may be at.

        Raises `FetchFailed` where nobody answers.
        """
        with self._lock:
            now = time.monotonic()
            while self._anew and next(iter(self._anew.values()))[0] < now - RESOLUTION_ANEW_SECONDS:
                self._anew.popitem(last=False)
            _, done = self._anew.get(did, (now, None))
            if done is None:
                mine = threading.Event()
                self._anew[did] = now, mine
                if len(self._anew) > MAX_ANEW:
                    self._anew.popitem(last=False)
        if done is not None:
            done.wait(RESOLUTION_CLAIM_SECONDS)
            return self._identities.get(did)
        began, is_anew = time.time(), False
        try:
            fresh = self._identities.get(did, force=True)
            is_anew = _is_since(fresh, began)
        finally:
            if not is_anew:  # nobody answered: the next failure asks again
                with self._lock:
                    self._anew.pop(did, None)
            mine.set()
        if not is_anew:
            reason = f"{why.reason}; whether it has moved or has a new key could not be found out: {fresh.reason}"
            raise FetchFailed("identity", reason, blames_account=False, host=why.host)
        return fresh

    # --- repositories ------------------------------------------------------------------------------------------------

    def _repository(self, identity: KnownIdentity, newer_than: str | None) -> Export:
        host, key = _pds(identity), _key(identity)
        export = self._export(identity.did, host)
        try:
            if not verify_commit(key, export.signed, export.sig):
                raise _bad_signature(host)
            if newer_than is not None and export.rev < newer_than:
                reason = f"its PDS has an older rev than we have: {export.rev}, not {newer_than}"
                raise FetchFailed("older rev", reason, host=host)
        except BaseException:
            export.close()
            raise
        return export

    def _export(self, did: str, host: str) -> Export:
        """The export that a PDS gives for an account; its signature is not checked yet."""
        spool = new_spool(self._settings)
        try:
            download = self._client.download(
                host, GET_REPO, {"did": did}, spool.write, max_bytes=self._settings.repo_bytes
            )
            return spool.export(did)
        except BaseException as error:
            spool.close()
            if isinstance(error, FetchError):
                raise _refused(error, host) from None
            if isinstance(error, InvalidExport):
                raise export_failed(error, host, sent_as=download.content_type) from None
            if isinstance(error, OSError):
                reason = f"the temporary file of its export failed: {error.strerror or error}"
                raise FetchFailed("disk", reason, blames_account=False, host=host) from None
            raise

    # --- single records ----------------------------------------------------------------------------------------------

    def _record(self, identity: KnownIdentity, collection: str, rkey: str) -> FetchedRecord:
        host, key, did, path = _pds(identity), _key(identity), identity.did, f"{collection}/{rkey}"
        parameters = {"did": did, "collection": collection, "rkey": rkey}
        try:
            proof = self._client.query(host, GET_RECORD, parameters, max_bytes=MAX_PROOF)
            with read_export(proof, did, time.time_ns() // 1_000) as export:
                if not verify_commit(key, export.signed, export.sig):
                    raise _bad_signature(host)
                cid = export.find(path)
                return FetchedRecord(
                    did=did,
                    path=path,
                    rev=export.rev,
                    commit=export.commit,
                    data=export.data,
                    cid=cid,
                    block=None if cid is None else export.block(cid),
                )
        except FetchError as error:
            if isinstance(error, XrpcError) and error.name == "RecordNotFound":
                raise FetchFailed("not found", error.reason, is_final=True, host=host) from None
            raise _refused(error, host) from None
        except InvalidExport as error:
            raise export_failed(error, host) from None


def export_failed(error: InvalidExport, host: str | None, *, sent_as: str = "") -> FetchFailed:
    """The failure of a repository whose export, or proof of a record, is not valid. `sent_as`: its content type."""
    reason = error.reason
    if error.kind == "car" and sent_as and not sent_as.startswith("application/vnd.ipld.car"):
        reason = f"{reason} (sent as {sent_as})"
    return FetchFailed(f"export: {error.kind}", f"the export is not valid: {reason}", host=host)


def _refused(error: FetchError, host: str) -> FetchFailed:
    is_gone = isinstance(error, XrpcError) and error.name in _GONE
    is_refused = isinstance(error, XrpcError) and 400 <= error.status < 500 and error.name != ""
    return FetchFailed(
        "gone" if is_gone else "refused" if is_refused else error.kind,
        error.reason,
        is_final=is_gone,
        retry_after=error.retry_after,
        blames_account=error.blames_account,
        host=host,
    )


def _bad_signature(host: str) -> FetchFailed:
    return FetchFailed("signature", "its commit is not signed with the account's key", host=host)


def _is_since(identity: KnownIdentity, moment: float) -> bool:
    """Whether an identity was resolved after a moment."""
    return identity.resolved_at is not None and identity.resolved_at >= moment


def _pds(identity: KnownIdentity) -> str:
    """Raises `FetchFailed` where no PDS is known."""
    if identity.pds is not None:
        return identity.pds
    if identity.state is None:
        if identity.reason == EXCLUDED:
            raise FetchFailed("excluded", EXCLUDED, is_final=True)
        # The directory does not answer, which says nothing about the account, unless it is a directory of its own.
        is_its_own = not identity.did.startswith("did:plc:")
        raise FetchFailed("identity", f"its DID is not resolved: {identity.reason}", blames_account=is_its_own)
    reason = identity.reason or "its DID document names no PDS"
    raise FetchFailed("identity", f"nobody knows its PDS: {reason}", is_final=True)


def _key(identity: KnownIdentity) -> PublicKey:
    """Raises `FetchFailed` where no key is known."""
    if identity.signing_key is None:
        raise FetchFailed("identity", "its DID document has no key for commits", is_final=True, host=identity.pds)
    try:
        return parse_did_key(identity.signing_key)
    except InvalidKey as error:
        raise FetchFailed("identity", f"its key can't be used: {error}", is_final=True, host=identity.pds) from None
