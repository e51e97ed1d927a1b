"""The proof that the index is what the network says: repositories fetched, proved, and compared record by record."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import orjson

from appview_pipeline import backoff
from appview_pipeline.backfill.compare import ExportedRepository, merged
from appview_pipeline.backfill.exported_changes import ExportReader, RecordReader, Refused
from appview_pipeline.backfill.fetch import FetchFailed
from appview_pipeline.ingest.dead_letters import EXCLUDED
from appview_pipeline.ingest.old_records import OldRecords, old_records
from appview_pipeline.ingest.rerun import LOOK_CHUNK, wrongly_derived
from appview_pipeline.protocol.cbor import InvalidRecord, decode_record_json
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.protocol.export import Export, InvalidExport
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.indexed_records import IndexedState, indexed_states
from appview_pipeline.store.repo_states import read_repos

COUNTS = ("records", "missing", "extra", "differing", "refused", "newer", "old", "ignored", "underived")
"""What is counted of each repository, and summed up."""
MAX_FETCHES = 8
"""Repositories that are audited at a time: each may hold `APPVIEW_REPO_MEMORY_BYTES`."""
MAX_EXAMPLES = 20
"""Examples kept for a repository, and for a whole audit."""


class Example(NamedTuple):
    """A record that differs: `kind` is the count that it is part of, `why` says what differs."""

    kind: str
    uri: str
    why: str


@dataclass
class RepositoryAudit:
    """What comparing a repository with the index came to.

    `rev`: of the export; `index_rev`: the newest rev that is applied; `state`: of the repository, with "partial" where
    only its newest records were fetched. `records`: those of the export of collections that are indexed; `same` of them
    are indexed as they are. `missing`: in the export and not in the index; `extra`: the other way round; `differing`:
    in both, and not the same. `refused` may not be indexed, and are not. `newer`: the index has a later rev of them
    than the export. `old` are not indexed because of their age (APPVIEW_RETENTION_DAYS). `ignored`: of collections that
    are not indexed. `underived`: indexed records whose rows in other tables are not what they should be (only a deep
    audit looks).
    """

    did: str
    rev: str
    index_rev: str | None = None
    state: str = "unknown"
    records: int = 0
    same: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    refused: int = 0
    newer: int = 0
    old: int = 0
    ignored: int = 0
    underived: int = 0
    seconds: float = 0.0
    examples: list[Example] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """Records in which index and network disagree, and those whose derived rows are wrong."""
        return self.missing + self.extra + self.differing + self.underived

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        values = asdict(self) | {"examples": [example._asdict() for example in self.examples]}
        return {"differences": self.differences, **values, "seconds": round(self.seconds, 3)}

    def add(self, kind: str, path: str, why: str) -> None:
        """Counts a record that disagrees, and keeps it as an example."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(Example(kind, f"at://{self.did}/{path}", why))


@dataclass
class AuditSummary:
    """What an audit came to; the counts are sums over its repositories (`audited`, in the order in which they were
    done). `failed`: those that could not be fetched or proved, and why."""

    repositories: int = 0
    records: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    refused: int = 0
    newer: int = 0
    old: int = 0
    ignored: int = 0
    underived: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    audited: list[RepositoryAudit] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def differences(self) -> int:
        """Records in which index and network disagree, and those whose derived rows are wrong."""
        return self.missing + self.extra + self.differing + self.underived

    def add(self, found: RepositoryAudit) -> None:
        """Adds a repository."""
        self.repositories += 1
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(found, name))
        self.examples += found.examples[: MAX_EXAMPLES - len(self.examples)]
        self.audited.append(found)

    def as_json(self) -> dict[str, Any]:
        """All of it but the single repositories, as one JSON object."""
        values = asdict(self)
        del values["audited"]
        values["examples"] = [example._asdict() for example in self.examples]
        values["seconds"] = round(self.seconds, 3)
        return {"differences": self.differences, **values}


class Repositories(Protocol):
    """What is needed of a `Fetcher`."""

    def repository(self, did: str, *, newer_than: str | None = None) -> Export:
        """The export of an account's repository, its signature checked. Raises `FetchFailed`."""
        ...


def audit(
    settings: Settings,
    database: Database,
    fetcher: Repositories,
    dids: Collection[str],
    *,
    deep: bool = False,
    progress: Callable[[AuditSummary], object] = lambda so_far: None,
    stopped: Callable[[], bool] = lambda: False,
) -> AuditSummary:
    """Fetches the repositories `dids`, proves them and compares each with the index. Writes nothing.

    `deep`: compares the rows that are derived from the records as well. Up to 8 at a time; `progress` is called after
    each, in the caller's thread. When `stopped` says so, no further one is begun. What can't be fetched or
    proved is in `failed`, with the reason.
    """
    summary = AuditSummary()
    started = time.monotonic()
    waiting = iter(dict.fromkeys(dids))
    running: dict[Future[RepositoryAudit], str] = {}
    at_once = min(settings.repo_fetches, MAX_FETCHES)
    with ThreadPoolExecutor(at_once, thread_name_prefix="audit") as pool:
        while True:
            if not stopped():
                for did in islice(waiting, at_once - len(running)):
                    running[pool.submit(audit_repository, settings, database, fetcher, did, deep=deep)] = did
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                did = running.pop(future)
                try:
                    summary.add(future.result())
                except (FetchFailed, InvalidExport) as error:
                    summary.failed[did] = error.reason
                progress(summary)
    summary.seconds = time.monotonic() - started
    return summary


def audit_repository(
    settings: Settings, database: Database, fetcher: Repositories, did: str, *, deep: bool = False
) -> RepositoryAudit:
    """Fetches a repository and compares it with the index. Raises `FetchFailed` and `InvalidExport`.

    The repository of an account that is excluded is not fetched: nothing of it may be indexed, so nothing is missing.
    Where they differ and the index has not reached the rev of the export yet, it waits for the stream, for a few
    seconds, and compares again.
    """
    with database.connect("reader") as connection:
        repo = read_repos(connection, [did]).get(did)
    if repo is not None and repo.excluded:
        raise FetchFailed("excluded", EXCLUDED, is_final=True)
    with fetcher.repository(did) as export:
        found = compare_with_index(settings, database, export)
        if found.differences and (found.index_rev is None or found.index_rev < export.rev):
            _wait_for_rev(database, export)
            found = compare_with_index(settings, database, export)
    if deep:
        _compare_derived(database, found)
    return found


def compare_with_index(settings: Settings, database: Database, export: ExportedRepository) -> RepositoryAudit:
    """Compares a proved export with the index, record by record: CIDs and JSON. Raises `InvalidExport`."""
    started = time.monotonic()
    reader = ExportReader(settings, time.time_ns() // 1_000)
    records = reader.of(export.did, export.rev)
    too_old = old_records(settings, database)
    with database.connect("reader") as connection:
        repo = read_repos(connection, [export.did]).get(export.did)
    found = RepositoryAudit(export.did, export.rev)
    if repo is not None:
        found.index_rev, found.state = repo.rev, repo.sync_state + (", partial" if repo.is_partial else "")
    for path, cid, known in merged(export.records(), indexed_states(database, export.did, with_json=True)):
        collection = path.partition("/")[0]
        if reader.collections.get(collection) is None:
            found.ignored += cid is not None
            continue
        found.records += cid is not None
        is_newer = known is not None and known.rev is not None and known.rev > export.rev
        if cid is None:
            if known is not None and known.cid is not None:
                if is_newer:
                    found.newer += 1
                else:
                    found.add("extra", path, f"indexed as of rev {known.rev}; the repository does not have it")
        elif known is not None and known.cid == to_text(cid):
            if (why := _other_content(known, export.block(cid))) is None:
                found.same += 1
            else:
                found.add("differing", path, why)
        elif is_newer:
            found.newer += 1
        else:
            _add_unlike(found, records, path, collection, cid, export.block(cid), known, too_old)
    found.seconds = time.monotonic() - started
    return found


def _add_unlike(
    found: RepositoryAudit,
    records: RecordReader,
    path: str,
    collection: str,
    cid: bytes,
    block: bytes,
    known: IndexedState | None,
    too_old: OldRecords | None,
) -> None:
    """Counts a record that is not in the index as the export has it."""
    write = records.write(path, collection, to_text(cid), block, known)
    if isinstance(write, Refused):
        found.refused += 1
    elif too_old is not None and write.action == "create" and too_old.is_old(write):
        found.old += 1
    elif known is None:
        found.add("missing", path, f"{to_text(cid)} is not indexed")
    elif known.cid is None:
        found.add("missing", path, f"{to_text(cid)} is not indexed: deleted here as of rev {known.rev}")
    else:
        found.add(
            "differing", path, f"{known.cid} is indexed, as of rev {known.rev}; the repository has {to_text(cid)}"
        )


def _compare_derived(database: Database, found: RepositoryAudit) -> None:
    """Compares the rows that are derived from the indexed records with them."""
    uris = (f"at://{found.did}/{it.path}" for it in indexed_states(database, found.did) if it.cid is not None)
    while some := list(islice(uris, LOOK_CHUNK)):
        for uri in wrongly_derived(database, dict.fromkeys(some, found.did)):
            path = uri.removeprefix(f"at://{found.did}/")
            found.add("underived", path, "rows derived from it are not what they should be: rerun its table")


def _other_content(known: IndexedState, block: bytes) -> str | None:
    """What is wrong with the stored JSON of a record whose CID is that of the block; None: nothing."""
    try:
        _, text = decode_record_json(block)
    except InvalidRecord as error:
        return f"is indexed, and can't be decoded: {error}"
    if known.json == text or (known.json is not None and orjson.loads(known.json) == orjson.loads(text)):
        return None
    return "the stored JSON is not that of the record"


def _wait_for_rev(database: Database, export: ExportedRepository) -> None:
    """Waits until the stream has reached the export's rev, or for as long as it may take."""
    for _ in _polls(backoff.AUDIT_STREAM):
        with database.connect("reader") as connection:
            repo = read_repos(connection, [export.did]).get(export.did)
        if repo is not None and repo.rev is not None and repo.rev >= export.rev:
            return


def _polls(poll: backoff.Poll) -> Iterator[None]:
    until = time.monotonic() + poll.longest
    while time.monotonic() < until:
        time.sleep(poll.every)
        yield


def lines(summary: AuditSummary) -> list[str]:
    """The audit as a table for people: a line for each repository, then what differs, and what could not be audited."""
    table = [["DID", *COUNTS, "state"]]
    table += [[it.did, *(f"{getattr(it, name):,}" for name in COUNTS), it.state] for it in summary.audited]
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    found = [
        "  ".join(
            cell.ljust(width) if at in (0, len(row) - 1) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    found += [f"{example.kind}: {example.uri}: {example.why}" for example in summary.examples]
    found += [f"{did} could not be audited: {reason}" for did, reason in summary.failed.items()]
    return found
