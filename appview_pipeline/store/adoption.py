"""How far the adoption of a database of the reference has come (`pipeline.adoption`, docs/serve.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.sql import read, sections

_FILE = "adopt/state.sql"

STEPS = {
    "schema": "the schema gets the name bsky",
    "columns": "columns of ours are added",
    "revs": "records get their revs",
    "notifications": "repeated notifications are removed",
    "migrations": "indexes are built, and the tables of schema pipeline made",
    "repositories": "repositories and accounts are listed",
    "history": "what records tell of deleted ones is noted",
    "records": "records are read, and what follows from them is compared and repaired",
    "remains": "rows without a record are removed",
    "counters": "counters are compared with a recount",
    "end": "the stream and the comparison with the network are prepared",
}
"""The steps of an adoption in their order, and what each does, as a sentence without its end."""


@dataclass(frozen=True)
class Options:
    """What an adoption was asked for, as `operations.adopting.adopt` has it."""

    cursor: int | None = None
    compare: bool = False
    from_keys: bool = False

    def __str__(self) -> str:
        """As they are typed."""
        given = [] if self.cursor is None else [f"--cursor {self.cursor}"]
        given += ["--compare"] * self.compare + ["--from-keys"] * self.from_keys
        return " ".join(given)


@dataclass(frozen=True)
class Adoption:
    """An adoption. `finished_at`: None while it is not finished; `from_schema`: the schema's former name; `cursor`,
    `compare`, `from_keys`: its options; `step`: the one under way, of `STEPS`; `position`: where it goes on, None at
    its beginning; `counts`: what was done so far."""

    began_at: datetime
    finished_at: datetime | None
    from_schema: str
    cursor: int | None
    compare: bool
    from_keys: bool
    step: str
    position: str | None
    counts: Mapping[str, int]

    def check_options(self, schema: str | None, options: Options) -> None:
        """Raises `OperatorError` where it goes on with other options than it began with. None given are no others."""
        stored = Options(self.cursor, self.compare, self.from_keys)
        if options not in (Options(), stored) or schema not in (None, self.from_schema):
            raise OperatorError(
                f"The adoption of the schema {self.from_schema} began with {str(stored) or 'no other options'}: give "
                "no options to go on, since they are kept."
            )

    @property
    def sentence(self) -> str:
        """Where it stands, for people."""
        if self.finished_at is not None:
            return f"This database was taken over from the reference's indexer at {self.finished_at:%Y-%m-%d %H:%M}."
        number = list(STEPS).index(self.step) + 1
        return (
            f"The adoption of this database is not finished: step {number} of {len(STEPS)} ({STEPS[self.step]}); run "
            "`appview-pipeline adopt` to go on."
        )


def make_state(connection: Connection, schema: str, options: Options) -> Adoption:
    """Begins the adoption of the tables in `schema`, or finds the one that has begun. Commits."""
    make_tables(connection)
    with connection.cursor() as cursor:
        cursor.execute(sections("adopt/ranges.sql")["clear"])
        begin = {"schema": schema, "step": next(iter(STEPS)), **asdict(options)}
        cursor.execute(sections(_FILE)["begin"], begin)
    connection.commit()
    adoption = read_adoption(connection)
    assert adoption is not None
    return adoption


def make_tables(connection: Connection) -> None:
    """Makes the tables that say how far an adoption has come, where they are not there. Commits."""
    with connection.cursor() as cursor:
        for name in ("0027_adoption", "0028_adoption_ranges"):
            cursor.execute(read(f"schema/{name}.sql"))
    connection.commit()


def read_adoption(connection: Connection) -> Adoption | None:
    """The database's adoption; None where it was not adopted."""
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["exists"])
        if cursor.fetchone() != (True,):
            return None
        cursor.execute(statements["read"])
        row = cursor.fetchone()
    return None if row is None else Adoption(*row)


def move(cursor: Cursor, step: str, position: str | None, counts: Mapping[str, int] | None = None) -> None:
    """Notes how far a step has come, and what it has done since it was last noted; part of the caller's transaction."""
    given = {key: number for key, number in (counts or {}).items() if number}
    parameters = {"step": step, "position": position, "counts": orjson.dumps(given).decode()}
    cursor.execute(sections(_FILE)["move"], parameters)


def end(cursor: Cursor) -> None:
    """Notes that the adoption has ended; part of the caller's transaction."""
    cursor.execute(sections(_FILE)["end"])


def forget_unfinished(connection: Connection) -> None:
    """Forgets an adoption that has not ended, so that the next one begins anew. For a connection in autocommit."""
    statements = sections(_FILE)
    with connection.cursor() as cursor:
        cursor.execute(statements["exists"])
        if cursor.fetchone() == (True,):
            cursor.execute(statements["forget"])


def refuse_unfinished(connection: Connection) -> None:
    """Raises `OperatorError` where an adoption is not finished."""
    adoption = read_adoption(connection)
    if adoption is not None and adoption.finished_at is None:
        raise OperatorError(adoption.sentence)
