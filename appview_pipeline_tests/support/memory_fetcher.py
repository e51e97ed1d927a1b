"""Exports of repositories in memory, and a fetcher that gives them out."""

from __future__ import annotations

import time

from appview_pipeline.backfill.fetch import FetchFailed
from appview_pipeline.protocol.export import Export, read_export
from appview_pipeline_tests.support.frames import Person


def export_of(person: Person) -> Export:
    """The export of an account's repository as it is now."""
    return read_export(person.repository.export(), person.did, time.time_ns() // 1_000)


class MemoryFetcher:
    """Fetches repositories of accounts in memory. `taken`: exports that were taken earlier are given out first."""

    def __init__(self, *people: Person) -> None:
        self._people = {person.did: person for person in people}
        self.taken: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def repository(self, did: str, *, newer_than: str | None = None) -> Export:
        """The account's repository; FetchFailed for any other."""
        self.fetched.append(did)
        person = self._people.get(did)
        if person is None:
            raise FetchFailed("gone", "the PDS has no such repository", is_final=True)
        car = self.taken.pop(did, None) or person.repository.export()
        export = read_export(car, did, time.time_ns() // 1_000)
        if newer_than is not None and export.rev < newer_than:
            raise FetchFailed("older rev", f"the PDS has an older rev, {export.rev}")
        return export
