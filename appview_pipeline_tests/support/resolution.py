"""Resolution without a network: what upstream says is written by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.identity.attempt import Attempt, Questions, attempt
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import Document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.identities import StoredIdentity, Wanted

KEY = "did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"


def did_of(name: str) -> str:
    """A DID, the same for the same name."""
    return f"did:plc:{name.ljust(24, '2')}"


def wanted(name: str = "ann", queue: str = "new", attempts: int = 0, *, status: bool = False) -> Wanted:
    """An account as it is taken from a queue."""
    did = did_of(name)
    return Wanted(did, queue, attempts, None, status, StoredIdentity(did))


def found(did: str, *, handle: str | None = None, pds: str | None = "https://pds.test") -> Resolution:
    """A document that names a handle (by default one made of the DID) and a PDS."""
    handle = handle or f"{did.rpartition(':')[2].rstrip('2')}.test"
    document = Document(did=did, handle=handle, pds=pds, signing_key=KEY, labeler=None, labeler_key=None, problems=())
    return Resolution(did, "found", "plc", document, "{}")


def no_answer(did: str, reason: str = "no answer within 5 s", **values: Any) -> Resolution:
    """A failed attempt."""
    return Resolution(did, None, "plc", reason=reason, **values)


def verified(did: str, handle: str) -> HandleCheck:
    """The handle leads back to the DID."""
    return HandleCheck(handle, True, did, "dns", None, True)


def active(did: str, pds: str | None = None, state: str | None = None) -> PdsStatus:
    """The PDS says that the account is active."""
    return PdsStatus(did, "active", is_final=True)


@dataclass
class Script:
    """Questions with answers by DID; every other DID is found, verified and active. `asked`: in which order."""

    resolutions: dict[str, Callable[[str], Resolution]] = field(default_factory=dict)
    checks: dict[str, Callable[[str, str], HandleCheck]] = field(default_factory=dict)
    statuses: dict[str, PdsStatus] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def resolve(self, did: str) -> Resolution:
        """The answer written for it."""
        self.asked.append(did)
        return self.resolutions.get(did, found)(did)

    @property
    def questions(self) -> Questions:
        """As the worker gets them."""
        return Questions(
            resolve=self.resolve,
            check=lambda did, handle: self.checks.get(did, verified)(did, handle),
            status=lambda did, pds, state: self.statuses.get(did, active(did)),
        )

    def attempt(self, wanted: Wanted) -> Attempt:
        """One attempt, as the worker's threads make it."""
        return attempt(wanted, self.questions)
