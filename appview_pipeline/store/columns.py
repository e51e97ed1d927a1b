"""The columns of our tables, read from the schema files, for readers that have no database at hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from appview_pipeline.store.sql import folder

_TABLE = re.compile(r'^create table (\w+)\."?(\w+)"? \(\n(.*?)^\)', re.MULTILINE | re.DOTALL)
# One column a line: name, type up to the first keyword of its constraints.
_COLUMN = re.compile(
    r'^    (?:"(?P<quoted>\w+)"|(?P<plain>\w+)) (?P<type>.+?)'
    r"(?P<rest>(?: collate | not null| default | primary key| generated | references | unique| check |,|  --|$).*)$",
    re.MULTILINE,
)
# Later migrations add columns, one a line too.
_ALTERED = re.compile(r'^alter table (\w+)\."?(\w+)"?\n((?:    add column .*\n?)+)', re.MULTILINE)
_ADDED = re.compile(
    r'^    add column "?(?P<name>\w+)"? (?P<type>.+?)'
    r"(?P<rest>(?: collate | not null| default | references | check |[,;]).*)$",
    re.MULTILINE,
)
_NOT_A_COLUMN = {"primary", "unique", "constraint", "foreign", "check", "exclude"}


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
            key = re.search(r"^    (?:constraint \w+ )?primary key \(([^)]*)\)", body, re.MULTILINE)
            keys = {name.strip().strip('"') for name in key.group(1).split(",")} if key else set()
            columns = []
            for match in _COLUMN.finditer(body):
                name = match["quoted"] or match["plain"]
                if match["plain"] in _NOT_A_COLUMN:
                    continue
                required = "not null" in match["rest"] or "primary key" in match["rest"] or name in keys
                columns.append(Column(name, match["type"], not required, "-- ours" in match["rest"]))
            found[f"{schema}.{table}"] = tuple(columns)
        for schema, table, body in _ALTERED.findall(path.read_text(encoding="utf-8")):
            found[f"{schema}.{table}"] += tuple(
                Column(match["name"], match["type"], "not null" not in match["rest"], schema == "bsky")
                for match in _ADDED.finditer(body)
            )
    return found
