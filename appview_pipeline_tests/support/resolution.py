"""Resolution without a network: what upstream says is written by a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.identity.attempt import Attempt, Questions, attempt
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import Document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.identity.slots import Limits, live_limits
from appview_pipeline.identity.worker import Worker
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import StoredIdentity, Wanted
from appview_pipeline_tests.support.tables import rows

KEY = "did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"


def did_of(name: str) -> str:
    """A DID, the same for the same name, which does not end in `a`."""
    return f"did:plc:{name.ljust(24, 'a')}"


def wanted(name: str = "ann", queue: str = "new", attempts: int = 0, *, status: bool = False) -> Wanted:
    """An account as it is taken from a queue."""
    did = did_of(name)
    return Wanted(did, queue, attempts, None, status, StoredIdentity(did))


def found(did: str, *, handle: str | None = None, pds: str | None = "https://pds.test") -> Resolution:
    """A document that names a handle (by default one made of the DID) and a PDS."""
    handle = handle or f"{did.rpartition(':')[2].rstrip('a')}.test"
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

    def resolve(self, did: str, is_repeated: bool = False) -> Resolution:
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


class Hanging:
    """Resolutions that hang until `release`; then they have no answer."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._released = threading.Event()

    def __call__(self, did: str) -> Resolution:
        with self._lock:
            self.count += 1
        self._released.wait(60)
        return no_answer(did)

    def release(self) -> None:
        """Lets all go."""
        self._released.set()


@contextmanager
def working(database: Database, script: Script, limits: Limits | None = None) -> Iterator[Worker]:
    """A worker at work in a thread during the block."""
    settings = Settings()
    stop = threading.Event()
    worker = Worker(database, settings, limits or live_limits(settings), script.attempt, stopped=stop.is_set)

    def work() -> None:
        while not stop.is_set():
            worker.step()
        worker.end()

    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(work)
        try:
            yield worker
        finally:
            stop.set()
            ends.result(30)


def queue_accounts(url: str, queue: str, names: Sequence[str], *, status: bool = False) -> list[str]:
    """Puts accounts into a queue, as the write path does. Returns their DIDs."""
    dids = [did_of(name) for name in names]
    rows(
        url,
        "INSERT INTO pipeline.identity (did, queue, wanted_at, asked_at, status_wanted) "
        "SELECT did, %s, now(), now(), %s FROM unnest(%s) did",
        queue, status, dids,
    )  # fmt: skip
    return dids


def states(url: str, dids: Sequence[str]) -> list[tuple[Any, ...]]:
    """Of each account, in the order of `dids`: state, handle, queue, attempts."""
    found = rows(url, "SELECT did, state, handle, queue, attempts FROM pipeline.identity WHERE did = ANY (%s)", dids)
    by_did = {did: tuple(rest) for did, *rest in found}
    return [by_did[did] for did in dids]
