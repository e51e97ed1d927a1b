"""The import of a PLC export: the documents of all accounts of the network, without asking the directory for each.

An export has an operation on each line, as `https://plc.directory/export` gives them: `did`, `operation`, `cid`,
`createdAt`, and in its older form `nullified`; more fields are ignored. A document counts as resolved when the
directory accepted its operation, for an export says nothing of what came after it. So the newest operation wins,
whatever the order of lines and files, and what was resolved since then stays. An operation that was undone is never
the newest one: the one that undid it is newer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.dids import WHY_TOMBSTONED
from appview_pipeline.identity.documents import document_json, parse_document
from appview_pipeline.identity.export_file import MAX_LINE_BYTES, ExportFile
from appview_pipeline.identity.plc_operations import (
    InvalidOperation,
    Operation,
    document_of,
    operation_cid,
    previous_of,
    rotation_keys,
    signer_of,
    verify_first,
)
from appview_pipeline.protocol.commit import FUTURE_TOLERANCE
from appview_pipeline.protocol.syntax import datetime_to_micros, is_did_plc
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Transient
from appview_pipeline.store.identity_import import ImportCounts, ImportedDocument, import_documents

log = logging.getLogger(__name__)

CHUNK_LINES = 20_000
"""Lines whose accounts are stored in one transaction."""
MAX_EXAMPLES = 10
"""Limit of the bad lines that the summary shows."""
MAX_REMEMBERED = 500_000
"""Operations whose rotation keys are remembered, to verify those that follow them: some 200 MB."""

_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class BadLine:
    """A line that is no operation that can be used: its number, from 1, and why."""

    line: int
    reason: str


@dataclass
class ImportSummary:
    """What an import did. `lines` are those read, `skipped_lines` those before the first one that was asked for;
    `nullified` and `bad_lines` are a part of `lines`.

    `accounts` counts an account once for each transaction that it was part of: `added` and `changed` of them were
    written, `excluded` forbid the collection of their data or were deleted, and of the others nothing older was stored.
    With verification, operations that are not valid are bad lines. Those that follow an operation that was not among
    the last ones read are `unverifiable`; they are imported all the same.
    """

    file: str
    skipped_lines: int = 0
    lines: int = 0
    nullified: int = 0
    bad_lines: int = 0
    verified: int = 0
    unverifiable: int = 0
    accounts: int = 0
    added: int = 0
    changed: int = 0
    excluded: int = 0
    retries: int = 0
    seconds: float = 0.0
    examples: list[BadLine] = field(default_factory=list)

    @property
    def lines_per_second(self) -> float:
        return self.lines / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The summary as one JSON object."""
        found = asdict(self)
        examples = found.pop("examples")
        found["seconds"] = round(self.seconds, 3)
        return {**found, "lines_per_second": round(self.lines_per_second, 1), "examples": examples}


@dataclass(slots=True)
class _Found:
    """An operation that a line holds: when it was accepted (microseconds), and its document; None for a tombstone."""

    did: str
    micros: int
    document: dict[str, Any] | None


def import_export(
    settings: Settings,
    database: Database,
    path: Path,
    *,
    verify: bool = False,
    skip_lines: int = 0,
    progress: Callable[[int], object] = lambda _: None,
) -> ImportSummary:
    """Imports the export at `path`, `CHUNK_LINES` lines a transaction; run again, it writes nothing twice.

    Lines that can't be used are counted, and the first ones shown. `verify`: an operation counts only if its CID and
    signature are valid, as far as the rotation keys that may have signed it were read before. `skip_lines`: lines at
    the beginning that are not read again. `progress` gets the bytes of the file that were read since its last call.

    Raises `OperatorError` when the file can't be read to its end, or the database does not take a part of it. What was
    stored before stays.
    """
    began = time.monotonic()
    summary = ImportSummary(str(path))
    with ExportFile(path) as file, _Writer(database, summary) as writer:
        reader = _Reader(
            file,
            summary,
            skip_lines=skip_lines,
            verifier=_Verifier(summary) if verify else None,
            plain_http=settings.allow_private_hosts,
        )
        consumed = 0
        for documents in reader.chunks():
            writer.put(documents, file.lines)
            progress(file.consumed - consumed)
            consumed = file.consumed
    summary.seconds = time.monotonic() - began
    return summary


class _Reader:
    """Reads the lines of a file into documents, in chunks."""

    def __init__(
        self,
        file: ExportFile,
        summary: ImportSummary,
        *,
        skip_lines: int,
        verifier: _Verifier | None,
        plain_http: bool,
    ) -> None:
        self._file = file
        self._summary = summary
        self._skip_lines = skip_lines
        self._verifier = verifier
        self._plain_http = plain_http
        self._latest = 0
        self._newest: dict[str, _Found] = {}
        self._as_new: list[_Found] = []

    def chunks(self) -> Iterator[list[ImportedDocument]]:
        """The documents of `CHUNK_LINES` lines at a time. The lines before a damaged part come before its error."""
        lines = iter(self._file)
        while True:
            self._latest = time.time_ns() // 1_000 + FUTURE_TOLERANCE
            damage: OperatorError | None = None
            at_end = False
            try:
                at_end = self._read_chunk(lines)
            except OperatorError as error:
                damage = error
            yield self._documents()
            if damage is not None:
                raise damage
            if at_end:
                return

    def _read_chunk(self, lines: Iterator[bytes | None]) -> bool:
        """Reads a chunk's lines, keeping the newest operation of each account. Returns whether these were the last."""
        newest = self._newest
        for number, line in enumerate(lines, self._file.lines + 1):
            if number <= self._skip_lines:
                self._summary.skipped_lines += 1
            else:
                found = self._read(line, number)
                if found is not None:
                    known = newest.get(found.did)
                    if known is None or found.micros > known.micros:
                        newest[found.did] = found
                    elif found.micros == known.micros:
                        self._as_new.append(found)
            if number % CHUNK_LINES == 0:
                return False
        return True

    def _read(self, line: bytes | None, number: int) -> _Found | None:
        """The operation of a line; None for one that does not count, or can't be used."""
        if line in (b"", b"\r"):
            return None
        self._summary.lines += 1
        try:
            return self._operation(line)
        except InvalidOperation as error:
            self._summary.bad_lines += 1
            if len(self._summary.examples) < MAX_EXAMPLES:
                self._summary.examples.append(BadLine(number, str(error)))
            return None

    def _operation(self, line: bytes | None) -> _Found | None:
        if line is None:
            raise InvalidOperation(f"the line has more than {MAX_LINE_BYTES:,} bytes")
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidOperation(f"the line is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidOperation("the line is no JSON object")
        did, created_at, nullified = value.get("did"), value.get("createdAt"), value.get("nullified")
        if not isinstance(did, str) or not is_did_plc(did):
            raise InvalidOperation("the line has no `did` of the PLC directory")
        micros = datetime_to_micros(created_at) if isinstance(created_at, str) else None
        if micros is None or micros < 0:
            raise InvalidOperation("the line has no `createdAt` that is a datetime")
        if micros > self._latest:
            raise InvalidOperation("the line's `createdAt` is in the future")
        if nullified is not None and not isinstance(nullified, bool):
            raise InvalidOperation("the line's `nullified` is neither true nor false")
        operation: Any = value.get("operation")
        document = document_of(did, operation)
        if nullified:
            self._summary.nullified += 1
            return None
        if self._verifier is not None:
            self._verifier.verify(did, value.get("cid"), operation)
        return _Found(did, micros, document)

    def _documents(self) -> list[ImportedDocument]:
        """The documents of the operations that were kept, which are then forgotten."""
        found = [self._document(it) for it in (*self._newest.values(), *self._as_new)]
        self._newest, self._as_new = {}, []
        return found

    def _document(self, found: _Found) -> ImportedDocument:
        created_at = f"{(_EPOCH + timedelta(microseconds=found.micros)).isoformat()}Z"
        if found.document is None:
            return ImportedDocument(found.did, created_at, error=WHY_TOMBSTONED)
        document = parse_document(found.did, found.document, plain_http=self._plain_http)
        return ImportedDocument(
            did=found.did,
            created_at=created_at,
            doc=document_json(document, found.document),
            pds=document.pds,
            signing_key=document.signing_key,
            labeler=document.labeler,
            labeler_key=document.labeler_key,
            claimed_handle=document.handle,
        )


class _Verifier:
    """Verifies operations by those that were read before them, of which the last ones are remembered."""

    def __init__(self, summary: ImportSummary) -> None:
        self._summary = summary
        # CID of an operation: its DID and rotation keys. Two generations: of the older one nothing is added.
        self._newer: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._older: dict[str, tuple[str, tuple[str, ...]]] = {}

    def verify(self, did: str, cid: object, operation: Operation) -> None:
        """Raises InvalidOperation where an operation's CID or signature is wrong."""
        keys = rotation_keys(operation)
        own_cid = operation_cid(operation)
        if cid != own_cid:
            raise InvalidOperation("the line's `cid` is not that of its operation")
        previous = previous_of(operation)
        if previous is None:
            verify_first(did, operation)
        else:
            before = self._newer.get(previous) or self._older.get(previous)
            if before is None:
                self._summary.unverifiable += 1
                self._remember(own_cid, did, keys)
                return
            if before[0] != did:
                raise InvalidOperation("the operation follows one of another DID")
            signer_of(operation, before[1])
        self._summary.verified += 1
        self._remember(own_cid, did, keys)

    def _remember(self, cid: str, did: str, keys: tuple[str, ...]) -> None:
        if len(self._newer) >= MAX_REMEMBERED // 2:
            self._newer, self._older = {}, self._newer
        self._newer[cid] = did, _shared(keys)


@lru_cache(20_000)
def _shared(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Equal keys as one object: those of a server are the same for all its accounts."""
    return keys


class _Writer:
    """Stores chunks, one at a time, in a thread of its own: the next one is read meanwhile.

    Where the import ends early, a log line says where to continue.
    """

    def __init__(self, database: Database, summary: ImportSummary) -> None:
        self._database = database
        self._summary = summary
        self._pool = ThreadPoolExecutor(1, "import")
        self._writing: Future[None] | None = None
        self._ends_at = 0
        self._stored = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            if error is not None:
                log.warning("The import ended early: continue with --skip-lines %d", self._stored)

    def put(self, documents: list[ImportedDocument], line: int) -> None:
        """Stores the documents of the lines up to `line`, once those before are stored. Raises their error."""
        self._wait()
        self._ends_at = line
        self._writing = self._pool.submit(self._store, documents)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()
            self._stored = self._ends_at

    def _store(self, documents: list[ImportedDocument]) -> None:
        if not documents:
            return
        counts = self._import(documents)
        summary = self._summary
        summary.accounts += counts.accounts
        summary.added += counts.added
        summary.changed += counts.changed
        summary.excluded += counts.excluded

    def _import(self, documents: list[ImportedDocument]) -> ImportCounts:
        pause = backoff.rerun()
        while True:
            try:
                with self._database.connect("maintenance") as connection:
                    return import_documents(connection, documents)
            except Transient as error:
                if pause.failures + 1 == backoff.RERUN_TRIES:
                    raise OperatorError(f"The database did not take a part of the import: {error}.") from error
                self._summary.retries += 1
                time.sleep(pause.next())
