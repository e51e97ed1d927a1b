"""A repository from a CAR file on disk, without the network."""

from __future__ import annotations

import mmap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appview_pipeline.backfill.fetch import FetchFailed
from appview_pipeline.backfill.resync import Outcome, Progress, begin, fail, write_export
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol.export import Export, InvalidExport, read_export
from appview_pipeline.protocol.signing import InvalidKey, PublicKey, parse_did_key, verify_commit
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Database

VALID, NO_KEY = "valid", "not checked: no key of the account is known (resolve it, or give its key with --key)"


@dataclass(frozen=True)
class FileOutcome:
    """What a file came to. `signature`: that the commit's signature is valid, or why it was not checked."""

    outcome: Outcome
    signature: str

    @property
    def is_complete(self) -> bool:
        """Whether all records of the file are dealt with: none was too much for the database."""
        return not {"postgres", "time-out"} & self.outcome.rejected.keys()

    def as_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        values = asdict(self.outcome)
        return {**values, "seconds": round(self.outcome.seconds, 3), "signature": self.signature}


def backfill_from_file(
    settings: Settings,
    database: Database,
    path: Path,
    did: str,
    *,
    key: str | None = None,
    days: int = -1,
    progress: Progress = lambda counts: None,
) -> FileOutcome:
    """Writes the repository of the account `did` from a CAR file, as if it had been fetched.

    The commit's signature is checked with `key` (a did:key), else with the key that is stored of the account. Raises
    `OperatorError` where the file is not that account's export, where the signature is wrong, where the
    repository is indexed whole as of a newer rev, and where nothing of the account may be stored.
    """
    given = None if key is None else _parsed(key)
    with _open(path, did) as export:
        signature = _signature(database, export, given)
        try:
            state = begin(database, did)
        except FetchFailed as error:
            raise OperatorError(f"{did} is not indexed: {error.reason}.") from None
        try:
            if state.export_rev is not None and export.rev < state.export_rev:
                raise OperatorError(
                    f"{path} is of rev {export.rev}, and the whole repository is indexed as of rev {state.export_rev}."
                )
            outcome = write_export(
                settings,
                database,
                Writer(database, settings, f"car:{path.name}"),
                export,
                state,
                days=days,
                is_fetched=False,
                progress=progress,
            )
        except (InvalidExport, OperatorError) as error:
            fail(database, did, str(error))
            if isinstance(error, InvalidExport):
                raise OperatorError(_in_words(path, did, error)) from None
            raise
    return FileOutcome(outcome, signature)


def _open(path: Path, did: str) -> Export:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise OperatorError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise OperatorError(f"{path} is empty.") from None
    try:
        return read_export(mapped, did, time.time_ns() // 1_000, close=mapped.close)
    except InvalidExport as error:
        raise OperatorError(_in_words(path, did, error)) from None


def _in_words(path: Path, did: str, error: InvalidExport) -> str:
    return f"{path} is no valid export of {did}: {error.reason}."


def _parsed(key: str) -> PublicKey:
    try:
        return parse_did_key(key)
    except InvalidKey as error:
        raise OperatorError(f"--key {key[:200]} can't be used: {error}.") from None


def _signature(database: Database, export: Export, given: PublicKey | None) -> str:
    key = given
    if key is None:
        with database.connect("reader") as connection:
            row = identities.read(connection, [export.did]).get(export.did)
        if row is None or row.signing_key is None:
            return NO_KEY
        key = _parsed(row.signing_key)
    if not verify_commit(key, export.signed, export.sig):
        whose = "the key that was given" if given is not None else "the key that is stored of the account"
        raise OperatorError(
            f"The export of {export.did} is not signed with {whose}: refresh its identity, or give the key that the "
            "file was signed with by --key."
        )
    return VALID
