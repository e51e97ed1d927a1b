"""A collection declares itself once. What else has to know of it follows from that, or a test here fails."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.defs.tables.groups import GROUPS
from appview_pipeline.indexing.batch import Batch, build, build_again
from appview_pipeline.indexing.changes import Change, RecordDelete
from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.registry import COLLECTIONS, DECLARED, EFFECTS, Declarations
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.store import sql
from appview_pipeline.store.apply import apply, prepare
from appview_pipeline.store.batch import StoredRecord
from appview_pipeline.store.columns import tables
from appview_pipeline.store.database import Database
from appview_pipeline.store.effects import LOCK_ORDER, Effects, NaturalKey, Stage
from appview_pipeline.store.placeholders import filled, filled_for
from appview_pipeline.store.repair import entries, list_work, look_at, prepare_repair, repair_records
from appview_pipeline_tests.properties import model_tables
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import rows

PRODUCT = CHECKOUT / "appview_pipeline"
WITH_TABLES = sorted(nsid for nsid, collection in COLLECTIONS.items() if collection.stages)


# ---- every collection is in every place


def test_module_sql_file_and_placeholders_have_the_same_name() -> None:
    for collection in COLLECTIONS.values():
        assert (PRODUCT / "indexing" / "collections" / f"{collection.name}.py").is_file(), (
            f"{collection.nsid} has the name {collection.name}, which is not that of its module"
        )


@pytest.mark.parametrize("nsid", WITH_TABLES)
def test_a_collection_with_tables_is_in_every_place(nsid: str) -> None:
    collection = COLLECTIONS[nsid]
    file = f"sql/apply/{collection.name}.sql"
    assert (CHECKOUT / file).is_file(), f"{nsid} has no {file}: its statements"
    has = sql.sections(f"apply/{collection.name}.sql")  # not `filled`, which needs the sections of all collections
    steps = (*collection.follows, *collection.always, *collection.under_lock)
    wanted = {"stage", "remove", "add", "differs", *(step.statement for step in steps)}
    wanted |= {f"kept_{column}" for column in collection.history.columns}
    wanted |= {f"subjects_{table}" for table in collection.counters}
    if collection.notifies is not None and collection.notifies.once:
        wanted |= {"notify", "notified_by_state", "staged_relationship", "kept_relationship", "kept_record"}
        wanted |= {"rows_of_post"} if collection.notifies.of_posts else set()
    if collection.misses:
        wanted.add("misses")
        kinds = set(re.findall("'(root|quote|embed|subject|list)'", has["misses"]))
        assert kinds == set(collection.misses), f"{file}: `misses` has other kinds than the module declares"
    assert not wanted - has.keys(), f"{file} lacks {sorted(wanted - has.keys())}, which the module declares"
    assert f"bsky.{collection.table}" in tables(), f"no migration makes bsky.{collection.table}, the table of {nsid}"
    assert nsid in LOCK_ORDER, f"LOCK_ORDER in store/effects.py lacks {nsid}: the order in which effects take locks"
    assert any(collection.table in group.tables for group in GROUPS), (
        f"no table group in defs/tables/groups.py has bsky.{collection.table}: {nsid} has no asset in Dagster"
    )
    assert record_validators().get(nsid) is not None, (
        f"no Lexicon document for {nsid}: its module would read records that nobody has validated; lexrpc has none, so "
        f"it goes to indexing/lexicon_documents/{nsid}.json"
    )
    assert f'"{nsid}"' in inspect.getsource(model_tables.rows_of), (
        f"the model of the tests has no case for {nsid}: rows_of in properties/model_tables.py"
    )


@pytest.mark.parametrize("function", ["relationship_of", "states_of_pair"])
def test_functions_know_the_collections_that_notify_once(database: Database, function: str) -> None:
    """They are in the database, where no placeholder reaches: a migration gives each such collection its branch."""
    once = [effect.nsid for effect in EFFECTS.declared if effect.notifies is not None and effect.notifies.once]
    with database.connect("reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_functiondef(%s::regproc)", (f"pipeline.{function}",))
        (definition,) = cursor.fetchone() or ("",)
    missing = [nsid for nsid in once if nsid not in definition]
    assert not missing, f"pipeline.{function} has no branch for {missing}: a migration has to replace it"


def test_the_order_and_the_declarations_name_the_same_collections() -> None:
    with pytest.raises(ValueError, match=r"LOCK_ORDER in store/effects.py does not name app\.bsky"):
        Effects(COLLECTIONS.values(), LOCK_ORDER[:-1])
    with pytest.raises(ValueError, match=r"no module of indexing/collections/ declares com\.example\.shelf\.book"):
        Effects(COLLECTIONS.values(), (*LOCK_ORDER, "com.example.shelf.book"))


def test_no_placeholder_is_left() -> None:
    """A placeholder that nothing fills would be an error of PostgreSQL's, and only when its statement runs."""
    own = re.compile(
        r"\{(?:nsid\.\w+|collections|misses|kept_\w+|timed\w*|time_of_row|decides_\w+|notified_\w+|reasons_\w+|staged_\w+|subjects_\w+)\}"
    )
    for file in [*(CHECKOUT / "sql" / "apply").glob("*.sql"), *(CHECKOUT / "sql" / "repair").glob("*.sql")]:
        for name, text in filled(EFFECTS, f"{file.parent.name}/{file.name}").items():
            assert not name or not own.findall(text), f"{file.name}, {name}"
    for effect in EFFECTS.in_order:
        if effect.natural_key is not None:
            for name, text in filled_for(EFFECTS, effect, "apply/duplicates.sql").items():
                assert not name or not re.findall(r"\{\w+\}", text), f"duplicates.sql, {name}"


# ---- and nowhere else


def test_a_collections_nsid_stands_in_its_own_files_only() -> None:
    """In the product's Python and SQL an NSID of ours is typed in the collection's module and in its SQL file.

    Other modules import the module's `COLLECTION` or get the set they need from `Effects`; other SQL files name a
    collection by `{nsid.NAME}`, or a set of them by its placeholder. Exempt are the lock order, which is one explicit
    list of all, and `sql/schema/`, whose migrations are history and run as they once were written. What is no
    collection of ours (`app.bsky.embed.*`, features of facets) may stand anywhere.
    """
    found = []
    for file in _product_files():
        text = file.read_text(encoding="utf-8")
        if file == PRODUCT / "store" / "effects.py":
            text = text.replace(_lock_order(text), "")
        for nsid, collection in COLLECTIONS.items():
            if file.stem == collection.name and file.parent.name in ("collections", "apply"):
                continue
            for match in re.finditer(rf"{re.escape(nsid)}(?![\w.])", text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{file.relative_to(CHECKOUT)}:{line}: {nsid}")
    assert found == []


def _product_files() -> Iterator[Path]:
    yield from PRODUCT.rglob("*.py")
    for folder in (CHECKOUT / "sql").iterdir():
        if folder.is_dir() and folder.name != "schema":
            yield from folder.glob("*.sql")


def _lock_order(text: str) -> str:
    start = text.index("LOCK_ORDER: ")
    return text[start : text.index("\n)\n", start)]


# ---- adding one

BOOK = "com.example.shelf.book"

TABLE = """
CREATE TABLE bsky.book (
  uri text PRIMARY KEY,
  cid text NOT NULL,
  creator text NOT NULL,
  isbn text NOT NULL,
  "createdAt" text NOT NULL,
  "indexedAt" text NOT NULL,
  UNIQUE (creator, isbn)
)"""
"""What would be its migration."""

BOOK_SQL = """
-- com.example.shelf.book -> bsky.book.

-- :stage
CREATE TEMPORARY TABLE stage_book (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  isbn text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
DELETE FROM bsky.book b
WHERE b.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
WITH row AS (
  INSERT INTO bsky.book (uri, cid, creator, isbn, "createdAt", "indexedAt")
  SELECT DISTINCT ON (creator, isbn) uri, cid, creator, isbn, created_at, indexed_at
  FROM stage_book
  ORDER BY creator, isbn, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :differs
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'book'
FROM stage_book s
LEFT JOIN bsky.book l USING (uri)
WHERE (l.cid, l.creator, l.isbn) IS DISTINCT FROM (s.cid, s.creator, s.isbn);
"""
"""What would be `book.sql` in sql/apply/."""


def stage_book(write: RecordWrite, staged: Rows) -> None:
    """Stages a book."""
    created_at = write.record["createdAt"]
    isbn = write.record["isbn"]
    staged["stage_book"].append((write.uri, write.cid, write.did, write.rev, isbn, created_at, write.indexed_at))


COLLECTION = Collection(
    BOOK,
    name="book",
    table="book",
    stages=(Stage("stage_book", ("uri", "cid", "creator", "rev", "isbn", "created_at", "indexed_at")),),
    stage=stage_book,
    natural_key=NaturalKey(("creator", "isbn"), ("creator", "isbn")),
    account_rows=None,
)
"""What would be `book.py` in indexing/collections/."""


class Shelf:
    """Writes books of one account, a batch each, into a database whose index has their collection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        collections: Mapping[str, Collection] = {**DECLARED.collections, BOOK: COLLECTION}
        # What would be one line of LOCK_ORDER.
        self.declared = Declarations(collections, Effects(collections.values(), (*LOCK_ORDER, BOOK)))

    def put(self, rkey: str, isbn: str, rev: str, action: str = "create") -> None:
        """A record is created or updated."""
        write = RecordWrite(
            uri=f"at://did:plc:reader/{BOOK}/{rkey}",
            cid=f"cid-{rev}",
            did="did:plc:reader",
            collection=BOOK,
            rkey=rkey,
            rev=rev,
            record={"isbn": isbn, "createdAt": "2026-01-01T00:00:00.000Z"},
            json=f'{{"isbn": "{isbn}", "createdAt": "2026-01-01T00:00:00.000Z"}}',
            indexed_at="2026-01-01T00:00:00.000Z",
            seq=None,
            action=action,
        )
        self._write(Change(1, writes=[write]))

    def remove(self, rkey: str, rev: str) -> None:
        """A record is deleted."""
        delete = RecordDelete(
            uri=f"at://did:plc:reader/{BOOK}/{rkey}",
            did="did:plc:reader",
            collection=BOOK,
            rev=rev,
            indexed_at="2026-01-02T00:00:00.000Z",
            seq=None,
        )
        self._write(Change(1, deletes=[delete]))

    def _write(self, change: Change) -> None:
        with self._database.connect("writer") as connection:
            prepare(connection, self.declared.effects)
            apply(connection, build([change], "test", declared=self.declared))

    def rerun(self) -> dict[str, int]:
        """Compares the table with the records, and repairs it. Returns the number of rows changed by table."""
        effects = self.declared.effects

        def stage(records: Sequence[StoredRecord]) -> Batch:
            return build_again(records, self.declared)[0]

        with self._database.connect("maintenance") as connection:
            prepare_repair(connection, effects)
            length = list_work(connection, effects, [BOOK], since=None, until=None, orphans=None)
            wrong = look_at(connection, entries(connection, 0, length), stage).wrong
            return repair_records(connection, wrong, stage).changed if wrong else {}

    def books(self) -> list[tuple[Any, ...]]:
        """Record keys and what they say, of the table."""
        return self._rows("SELECT split_part(uri, '/', 5), isbn FROM bsky.book ORDER BY 1")

    def duplicates(self) -> list[tuple[Any, ...]]:
        """Record keys of duplicates, and of the records that they are duplicates of."""
        return self._rows(
            """SELECT split_part(uri, '/', 5), split_part("duplicateOf", '/', 5) FROM bsky.duplicate_record"""
        )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return rows(self._database.url, query)


def test_an_added_collection_needs_no_other_change(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module, its SQL file, its place in the lock order and its migration are here; nothing else knows of it."""
    read = sql.read
    monkeypatch.setattr(sql, "read", lambda name: BOOK_SQL if name == f"apply/{COLLECTION.name}.sql" else read(name))
    rows(database.url, TABLE)
    shelf = Shelf(database)
    shelf.put("b", "978-1", "3b")
    shelf.put("c", "978-2", "3c")
    assert shelf.books() == [("b", "978-1"), ("c", "978-2")]
    shelf.put("c", "978-3", "3d", "update")
    assert shelf.books() == [("b", "978-1"), ("c", "978-3")]

    assert shelf.rerun() == {}
    rows(database.url, "UPDATE bsky.book SET isbn = 'x' WHERE split_part(uri, '/', 5) = 'b'")
    assert shelf.rerun() == {"book": 1}
    assert shelf.books() == [("b", "978-1"), ("c", "978-3")]

    shelf.put("e", "978-1", "3e")  # says the same, later: a duplicate
    assert (shelf.books(), shelf.duplicates()) == ([("b", "978-1"), ("c", "978-3")], [("e", "b")])
    shelf.put("a", "978-1", "3a")  # says the same, earlier, and arrives late: demotes the one that counted
    assert shelf.books() == [("a", "978-1"), ("c", "978-3")]
    assert sorted(shelf.duplicates()) == [("b", "a"), ("e", "a")]
    shelf.remove("a", "3f")
    assert (shelf.books(), shelf.duplicates()) == ([("b", "978-1"), ("c", "978-3")], [("e", "b")])

    shelf.put("c", "978-9", "3c")  # older than what is known
    shelf.remove("c", "3g")
    shelf.remove("b", "3h")
    shelf.remove("e", "3i")
    assert (shelf.books(), shelf.duplicates()) == ([], [])
    assert rows(database.url, "SELECT count(*) FROM bsky.record") == [(0,)]
