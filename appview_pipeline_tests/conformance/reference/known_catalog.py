"""Writes `sql/adopt/catalog.sql`: the catalog that an adoption expects, as the reference's own migrator makes it.

Usage, after the reference has a new version: python -m appview_pipeline_tests.conformance.reference.known_catalog
"""

from __future__ import annotations

from pathlib import Path

import psycopg2

from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import sections
from appview_pipeline_tests.conformance.reference.oracle import reference_template
from appview_pipeline_tests.conformance.reference.packages import folder
from appview_pipeline_tests.support.checkout import CHECKOUT

FILE = CHECKOUT / "sql" / "adopt" / "catalog.sql"
MAX_LINE = 120

_HEAD = """\
-- The catalog of the reference's tables at the last of its migrations that this project knows. An adoption expects it.
-- Written by appview_pipeline_tests/conformance/reference/known_catalog.py.
--
-- Guarantees: reads nothing. Names and types are PostgreSQL's own words (sql/adopt/check.sql asks it for them).
"""

_DESCRIPTIONS = {
    "columns": "Columns: table, name, type and more.",
    "constraints": "Constraints: table, name, definition.",
    "indexes": "Indexes beside those of constraints: table, name, definition from its method on.",
    "migrations": "Migrations of the reference: name.",
}


def render(url: str) -> str:
    """The file's text, from a database that the reference's migrator has made."""
    asked = sections("adopt/check.sql")
    connection = psycopg2.connect(libpq_url(url))
    parts = [_HEAD]
    try:
        with connection.cursor() as cursor:
            for name, description in _DESCRIPTIONS.items():
                statement = fill_placeholders(asked[name], {"{schema}": "bsky"})
                cursor.execute(statement, {"schema": "bsky"})
                rows = [_row([str(value) for value in row]) for row in cursor.fetchall()]
                parts.append(f"\n-- :{name}\n-- {description}\nVALUES\n  " + ",\n  ".join(rows) + ";\n")
    finally:
        connection.close()
    return "".join(parts)


def _row(values: list[str]) -> str:
    quoted = ["'" + value.replace("'", "''") + "'" for value in values]
    line = "(" + ", ".join(quoted) + ")"
    return line if len(line) < MAX_LINE - 3 else "(" + ",\n    ".join(quoted) + ")"


if __name__ == "__main__":
    with ephemeral(parent=Path("/dev/shm")) as server:
        FILE.write_text(render(server.url(reference_template(server, folder()))))
