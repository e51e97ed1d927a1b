"""The columns of our tables, read from the schema files, for readers that have no database at hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from appview_pipeline.store.sql import folder

_TABLE = re.compile(r'^CREATE TABLE (\w+)\."?(\w+)"? \(\n(.*?)^\)', re.MULTILINE | re.DOTALL)
# One column a line: name, type up to the first keyword of its constraints.
_COLUMN = re.compile(
    r'^    (?:"(?P<quoted>\w+)"|(?P<plain>\w+)) (?P<type>.+?)'
    r"(?P<rest>(?: COLLATE | NOT NULL| DEFAULT | PRIMARY KEY| GENERATED | REFERENCES | UNIQUE| CHECK |,|  --|$).*)$",
    re.MULTILINE,
)
# Later migrations add columns, one a line too.
_ALTERED = re.compile(r'^ALTER TABLE (\w+)\."?(\w+)"?\n((?:    ADD COLUMN .*\n?)+)', re.MULTILINE)
_ADDED = re.compile(
    r'^    ADD COLUMN "?(?P<name>\w+)"? (?P<type>.+?)'
    r"(?P<rest>(?: COLLATE | NOT NULL| DEFAULT | REFERENCES | CHECK |[,;]).*)$",
    re.MULTILINE,
)
_NOT_A_COLUMN = {"PRIMARY", "UNIQUE", "CONSTRAINT", "FOREIGN", "CHECK", "EXCLUDE"}


@dataclass(frozen=True)
class Column:
    """A column as declared: `type` in the words of the schema file."""

    name: str
    type: str
    nullable: bool
    ours: bool
    """Not in the reference's schema."""


@cache
def tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that the schema files create, by `schema.table`, in order."""
    found: dict[str, tuple[Column, ...]] = {}
    for path in sorted((folder() / "schema").glob("*.sql")):
        for schema, table, body in _TABLE.findall(path.read_text(encoding="utf-8")):
            key = re.search(r"^    (?:CONSTRAINT \w+ )?PRIMARY KEY \(([^)]*)\)", body, re.MULTILINE)
            keys = {name.strip().strip('"') for name in key.group(1).split(",")} if key else set()
            columns = []
            for match in _COLUMN.finditer(body):
                name = match["quoted"] or match["plain"]
                if match["plain"] in _NOT_A_COLUMN:
                    continue
                required = "NOT NULL" in match["rest"] or "PRIMARY KEY" in match["rest"] or name in keys
                columns.append(Column(name, match["type"], not required, "-- ours" in match["rest"]))
            found[f"{schema}.{table}"] = tuple(columns)
        for schema, table, body in _ALTERED.findall(path.read_text(encoding="utf-8")):
            found[f"{schema}.{table}"] += tuple(
                Column(match["name"], match["type"], "NOT NULL" not in match["rest"], schema == "bsky")
                for match in _ADDED.finditer(body)
            )
    return found
