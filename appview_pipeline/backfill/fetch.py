"""Repositories and single records fetched from their PDSes, and proved to be their accounts'."""

from __future__ import annotations

from dataclasses import dataclass

from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.export import Export
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database

GET_REPO = "com.atproto.sync.getRepo"
GET_RECORD = "com.atproto.sync.getRecord"


class FetchFailed(Exception):
    """A repository or a record that could not be had. `str()` and `reason` say why, as a part of a sentence.

    `kind`: a short constant to count by: a kind of `FetchError` ("timeout", "parked", ...), "gone" (the PDS has no such
    repository, or does not give it out), "not found" (there is no such record), "identity" (no PDS or key is known),
    "signature", "older rev", "disk", or "export: " and a kind of `InvalidExport`.
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


class Fetcher:
    """Fetches over one client. Safe to share between threads."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._settings = settings
        self._database = database
        self._client = client

    def host_of(self, did: str) -> str:
        """The origin of an account's PDS (`https://host`), resolved now if need be. Raises `FetchFailed`."""
        raise NotImplementedError

    def repository(self, did: str, *, newer_than: str | None = None) -> Export:
        """The export of an account's repository, its commit and signature checked; the caller closes it.

        One with a rev below `newer_than` is refused. Raises `FetchFailed`. The tree and the blocks are checked while
        they are read: `Export.records` and `Export.block` raise `protocol.export.InvalidExport`.
        """
        raise NotImplementedError

    def record(self, did: str, collection: str, rkey: str) -> FetchedRecord:
        """A record of an account, or the proof that there is none. Raises `FetchFailed`."""
        raise NotImplementedError
