"""Documents of a PLC export, loaded into the table of identities many at a time (`sql/identity/import.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.exclusion import hold_exclusions
from appview_pipeline.store.sql import sections
from appview_pipeline.store.staging import copy_rows


@dataclass(frozen=True, slots=True)
class ImportedDocument:  # its fields are the columns of stage_import
    """What an operation of the PLC directory makes of a DID.

    `created_at`: when the directory accepted it (ISO, UTC). `doc`: the document as JSON text that PostgreSQL can store;
    None, with all that follows from it, where the operation is a tombstone. `error`: why there is none.
    """

    did: str
    created_at: str
    doc: str | None = None
    pds: str | None = None
    signing_key: str | None = None
    labeler: str | None = None
    labeler_key: str | None = None
    claimed_handle: str | None = None
    error: str | None = None


_COLUMNS = tuple(field.name for field in fields(ImportedDocument))
_row = attrgetter(*_COLUMNS)


@dataclass(frozen=True)
class ImportCounts:
    """Accounts of one part of an import: all; those that are excluded, because they forbid the collection of their data
    or were deleted; those that are new here; those of which something older was stored. All others were known already.
    """

    accounts: int = 0
    excluded: int = 0
    added: int = 0
    changed: int = 0


def import_documents(connection: Connection, documents: Sequence[ImportedDocument]) -> ImportCounts:
    """Stores the documents that are newer than what is stored, as the caller's transaction.

    `documents` may hold several of one account, in any order. The accounts' rows are locked until the end of the
    transaction, in the order of their DIDs, and nobody can exclude an account until then.
    """
    statements = sections("identity/import.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["stage"])
        rows = [_row(it) for it in documents]
        copy_rows(cursor, "stage_import", _COLUMNS, rows)
        cursor.execute(statements["lock"])
        hold_exclusions(cursor)
        cursor.execute(statements["merge"])
        found = cursor.fetchone()
    assert found is not None
    accounts, excluded, added, changed = found
    return ImportCounts(accounts=accounts, excluded=excluded, added=added, changed=changed)
