"""Nothing here depends on what else runs on the server: looks at sessions and locks are of one database.

PostgreSQL shows the sessions and locks of all its databases to everybody. Object identifiers are no help: databases
that were cloned have the same ones. Tests share a server with those that ended a moment before, and people share theirs
with other programs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from appview_pipeline_tests.support.checkout import CHECKOUT

SHOWS_ALL = re.compile(r"\bpg_stat_activity\b|\bpg_locks\b|\bpg_prepared_xacts\b")
OF_ONE = re.compile(r"\bdatname\b|\bcurrent_database\b|\bdatid\b|\bdatabase =|\bpid = (%|pg_backend_pid)")
ON_PURPOSE = {
    "sql/report/health.sql": "connections of the whole server, which has a limit for all of them",
    "appview_pipeline/store/adoption_steps.py": "words",
    "appview_pipeline/store/operator_errors.py": "words",
    "appview_pipeline_tests/benchmark/shards.py": "a server of its own",
    "appview_pipeline_tests/soak/samples.py": "connections of each database",
    "appview_pipeline_tests/test_isolation.py": "this",
}
"""Files with a look at the whole server, and why."""


def texts_of(path: Path) -> Iterator[str]:
    """The SQL statements of a file, or the strings of a module; what adds to a string counts with it."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        yield from re.sub(r"--.*", "", source).split(";")
        return
    parts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif id(node) in parts:
            continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def whole_server(path: Path) -> list[str]:
    """The statements that look at sessions or locks of all databases."""
    return [text for text in texts_of(path) if SHOWS_ALL.search(text) and not OF_ONE.search(text) and " FROM " in text]


def test_sessions_and_locks_are_looked_at_in_one_database() -> None:
    files = [it for top in ("appview_pipeline", "appview_pipeline_tests", "sql") for it in (CHECKOUT / top).rglob("*")]
    found = {
        str(path.relative_to(CHECKOUT)): texts
        for path in files
        if path.suffix in (".py", ".sql") and (texts := whole_server(path))
    }
    assert {name: texts for name, texts in found.items() if name not in ON_PURPOSE} == {}


def test_such_a_look_is_found(tmp_path: Path) -> None:
    (module := tmp_path / "test_x.py").write_text("rows(url, 'SELECT pid FROM pg_locks WHERE NOT granted')")
    assert len(whole_server(module)) == 1
    module.write_text("rows(url, 'SELECT pid FROM pg_stat_activity '\n 'WHERE datname = current_database()')")
    assert whole_server(module) == []
