"""The columns of our tables, read from the schema files: Dagster shows them before there is a database."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from appview_pipeline.store.sql import folder

_TABLE = re.compile(r'^CREATE TABLE (?:IF NOT EXISTS )?(\w+)\."?(\w+)"? \(\n(.*?)^\)', re.MULTILINE | re.DOTALL)
# One column a line: name, type up to the first keyword of its constraints.
_COLUMN = re.compile(
    r'^    (?:"(?P<quoted>\w+)"|(?P<plain>\w+)) (?P<type>.+?)'
    r"(?P<rest>(?: COLLATE | NOT NULL| DEFAULT | PRIMARY KEY| GENERATED | REFERENCES | UNIQUE| CHECK |,|  --|$).*)$",
    re.MULTILINE,
)
# Later migrations add columns, one a line too; a long constraint may stand on lines of its own.
_ALTERED = re.compile(r'^ALTER TABLE (\w+)\."?(\w+)"?\s((?: *ADD COLUMN .*\n(?: {8}.*\n)*)+)', re.MULTILINE)
_ADDED = re.compile(
    r'ADD COLUMN (?:IF NOT EXISTS )?"?(?P<name>\w+)"? (?P<type>.+?)'
    r"(?P<rest>(?: COLLATE | NOT NULL| DEFAULT | GENERATED | REFERENCES | CHECK |[,;]|$).*)$",
    re.MULTILINE,
)
_MADE_NULLABLE = re.compile(r"^ALTER TABLE (\w+\.\w+) ALTER COLUMN (\w+) DROP NOT NULL;", re.MULTILINE)
_TABLE_RENAMED = re.compile(r"^ALTER TABLE (\w+)\.(\w+) RENAME TO (\w+);", re.MULTILINE)
_COLUMN_RENAMED = re.compile(r"^ALTER TABLE (\w+\.\w+) RENAME COLUMN (\w+) TO (\w+);", re.MULTILINE)
_COMMENT = re.compile(
    r'^COMMENT ON COLUMN (?P<table>\w+\."?\w+"?)\."?(?P<column>\w+)"? IS(?P<literals>(?:\s+\'(?:[^\']|\'\')*\')+);',
    re.MULTILINE,
)
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_KEY = re.compile(r"^    (?:CONSTRAINT \w+ )?PRIMARY KEY \(([^)]*)\)", re.MULTILINE)
_NOT_A_COLUMN = {"PRIMARY", "UNIQUE", "CONSTRAINT", "FOREIGN", "CHECK", "EXCLUDE"}


@dataclass(frozen=True)
class Column:
    """A column as declared: `type` in the words of the schema file."""

    name: str
    type: str
    nullable: bool
    ours: bool
    """Not in the reference's schema."""
    description: str | None
    """What it holds: the newest comment on it."""


@cache
def tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that the schema files create, by `schema.table`, in order."""
    found: dict[str, tuple[Column, ...]] = {}
    # Of each version what is done online comes first.
    paths = sorted((folder() / "schema").rglob("*.sql"), key=lambda it: (it.name, it.parent.name != "online"))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for schema, table, body in _TABLE.findall(text):
            found[f"{schema}.{table}"] = _created(body)
        for schema, table, body in _ALTERED.findall(text):
            found[f"{schema}.{table}"] += _added(body, ours=schema == "bsky")
        for table, name in _MADE_NULLABLE.findall(text):
            found[table] = tuple(replace(it, nullable=True) if it.name == name else it for it in found[table])
        for schema, old, new in _TABLE_RENAMED.findall(text):
            found[f"{schema}.{new}"] = found.pop(f"{schema}.{old}")
        for table, old, new in _COLUMN_RENAMED.findall(text):
            found[table] = tuple(replace(it, name=new) if it.name == old else it for it in found[table])
        for match in _COMMENT.finditer(text):
            table = match["table"].replace('"', "")
            comment = "".join(_LITERAL.findall(match["literals"])).replace("''", "'")
            if table in found:  # else a view
                found[table] = tuple(
                    replace(it, description=comment) if it.name == match["column"] else it for it in found[table]
                )
    return found


def _created(body: str) -> tuple[Column, ...]:
    """The columns between the parentheses of a `CREATE TABLE`."""
    key = _KEY.search(body)
    keys = {name.strip().strip('"') for name in key.group(1).split(",")} if key else set()
    columns = []
    for match in _COLUMN.finditer(body):
        name = match["quoted"] or match["plain"]
        if match["plain"] in _NOT_A_COLUMN:
            continue
        rest = match["rest"]
        required = "NOT NULL" in rest or "PRIMARY KEY" in rest or name in keys
        columns.append(Column(name, match["type"], nullable=not required, ours="-- ours" in rest, description=None))
    return tuple(columns)


def _added(body: str, *, ours: bool) -> tuple[Column, ...]:
    """The columns of an `ALTER TABLE` that adds some."""
    return tuple(
        Column(
            match["name"],
            match["type"],
            nullable="NOT NULL" not in match["rest"],
            ours=ours,
            description=None,
        )
        for match in _ADDED.finditer(body)
    )
