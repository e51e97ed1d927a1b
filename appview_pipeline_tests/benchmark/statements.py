"""Where PostgreSQL's time goes: the duration of every statement of a run, from the server's own log."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.sides import Server

# The pipeline's own sessions only: not the benchmark's, which looks what can be read.
_ENTRY = re.compile(
    r"^\d{4}-\d\d-\d\d [^\n]*\] appview-pipeline[^\n]* LOG:  duration: ([\d.]+) ms  (?:statement|execute [^:]*): "
    r"(.*?)(?=^\d{4}-\d\d-\d\d |\Z)",
    re.MULTILINE | re.DOTALL,
)
# Statements differ in their beginning; later on some hold data.
_TELLING = 60


def _telling(statement: str) -> str:
    if statement.startswith('EXECUTE "'):
        return statement.split('"')[1].partition(",")[0].replace(".", " ")
    text = " ".join(re.sub(r"--[^\n]*", " ", statement).split())
    return text.partition(" (")[0] if text.startswith("COPY ") else text[:_TELLING]


def _names(folder: Path) -> dict[str, str]:
    """`file section` of the statements of the pipeline's sql/apply/, by how they begin."""
    names: dict[str, str] = {}
    for file in sorted((folder / "sql" / "apply").glob("*.sql")):
        for part in file.read_text().split("\n-- :")[1:]:
            section, _, text = part.partition("\n")
            names.setdefault(_telling(text), f"{file.stem} {section.strip()}")
    return names


@contextmanager
def logged(server: Server, found: dict[str, float]) -> Iterator[None]:
    """Puts into `found`, by statement, the milliseconds that statements took within the block, the largest first.

    Names are those of the files and sections in sql/apply/, else the statement's beginning. Logging them costs next to
    nothing: a batch has some sixty.
    """
    maintenance, log = server.libpq("postgres"), server.folder / "postgres.log"

    def switch(action: str) -> None:
        for statement in (f"ALTER SYSTEM {action}", "SELECT pg_reload_conf()"):
            query(maintenance, statement)
        time.sleep(0.2)  # sessions take note at their next statement

    before = log.stat().st_size
    switch("SET log_min_duration_statement = 0")
    try:
        yield
    finally:
        switch("RESET log_min_duration_statement")
    with log.open(errors="replace") as file:
        file.seek(before)
        text = file.read()
    names, sums = _names(server.side.checkout), defaultdict[str, float](float)
    for entry in _ENTRY.finditer(text):
        start = _telling(entry[2])
        sums[names.get(start, start)] += float(entry[1])
    found.update(sorted(sums.items(), key=lambda item: -item[1]))
