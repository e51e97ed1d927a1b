"""The identity directory of a conformance scenario: what documents, handles and PDSes answer while it is played."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from appview_pipeline.identity.attempt import Questions, attempt
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import parse_document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.indexing.changes import Change
from appview_pipeline.protocol.syntax import normalize_handle
from appview_pipeline.settings import Settings
from appview_pipeline.store import accounts, identities
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import rows


class Directory:
    """Answers as the steps so far say. A PDS says of an account what the relay says of it.

    `actors`: as in the scenario's file: DID, handle and key of each account, by name.
    """

    def __init__(self, actors: dict[str, dict[str, str]]) -> None:
        self._handles = {actor["did"]: actor["handle"] for actor in actors.values()}
        self._keys = {actor["did"]: actor["signingKey"] for actor in actors.values()}
        self._resolves: dict[str, list[str]] = {}
        self._statuses: dict[str, str] = {}

    def follow(self, steps: Iterable[dict[str, Any]]) -> None:
        """Answers from now on as these `directory` steps say."""
        for step in steps:
            for did, answers in step.items():
                self._handles[did] = answers.get("handle", self._handles[did])
                if "resolves" in answers:
                    self._resolves[did] = answers["resolves"]

    def hear(self, changes: Iterable[Change]) -> None:
        """What the relay says of accounts."""
        for account in (change.account for change in changes if change.account is not None):
            self._statuses[account.did] = "active" if account.active else account.status or "deactivated"

    @property
    def questions(self) -> Questions:
        """As resolution asks them."""
        return Questions(self._resolve, self._check, self._status)

    def documents(self) -> dict[str, dict[str, Any]]:
        """The DID document of every account."""
        return {did: self._document(did) for did in self._handles}

    def handles(self) -> dict[str, str]:
        """By handle, in lower case, the DID that it resolves to."""
        return {
            normalize_handle(handle): did
            for did, name in self._handles.items()
            for handle in self._resolves.get(did, [name])
        }

    def gone(self) -> list[str]:
        """The accounts of which the relay said last that they are deleted."""
        return [did for did, status in self._statuses.items() if status == "deleted"]

    def _resolve(self, did: str, is_repeated: bool) -> Resolution:
        if did not in self._handles:
            return Resolution(did, "not found", "plc", reason="it is not in the scenario")
        return Resolution(did, "found", "plc", parse_document(did, self._document(did)), "{}")

    def _document(self, did: str) -> dict[str, Any]:
        return {
            "id": did,
            "alsoKnownAs": [f"at://{self._handles[did]}"],
            "verificationMethod": [
                {
                    "id": f"{did}#atproto",
                    "type": "Multikey",
                    "controller": did,
                    "publicKeyMultibase": self._keys[did].removeprefix("did:key:"),
                }
            ],
            "service": [
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": "https://pds.example",
                }
            ],
        }

    def _check(self, did: str, handle: str) -> HandleCheck:
        resolving = self._resolves.get(did, [self._handles[did]])
        if handle in map(normalize_handle, resolving):
            return HandleCheck(handle, True, did, "dns", None, is_final=True)
        return HandleCheck(handle, False, None, None, "it does not resolve", is_final=True)

    def _status(self, did: str, pds: str | None, state: str | None) -> PdsStatus:
        return PdsStatus(did, self._statuses.get(did, "active"), is_final=True)


class Answering(Protocol):
    """A directory that tests answer from."""

    @property
    def questions(self) -> Questions:
        """As resolution asks them."""


def resolve_queued(database: Database, directory: Answering) -> None:
    """Resolves every account that waits, as the identity process and the job refresh_dids do."""
    usable = Settings().identity_usable_seconds
    with database.connect("writer") as connection:
        identities.queue_refresh(connection, 1_000)
        taken = [it for queue in identities.QUEUES for it in identities.take(connection, queue, 1_000, 60.0)]
    found = [attempt(wanted, directory.questions) for wanted in taken]
    with database.connect("writer") as connection:
        accounts.save_statuses(connection, [it.status for it in found if it.status is not None])
    with database.connect("writer") as connection:
        identities.save(connection, [it.settled for it in found if it.settled is not None], usable_seconds=usable)


def let_time_pass(database: Database, seconds: float) -> None:
    """Makes everything that is known of identities so much older."""
    columns = ("resolved_at", "handle_checked_at", "next_check_at", "wanted_at", "asked_at")
    moved = ", ".join(f"{column} = {column} - make_interval(secs => %(seconds)s)" for column in columns)
    rows(database.url, f"UPDATE pipeline.identity SET {moved}".replace("%(seconds)s", repr(seconds)))
