"""The SQL files, by name. They live in `sql/` at the top of the checkout and inside the package once installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def folder() -> Path:
    """The folder `sql/`: the installed package's own, else the checkout's."""
    for candidate in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (candidate / "schema").is_dir():
            return candidate
    raise FileNotFoundError(f"no sql/ beside or in {_PACKAGE}: the installation is damaged")


@cache
def read(name: str) -> str:
    """The text of one SQL file, e.g. `read("apply/like.sql")`. Raises FileNotFoundError for an unknown name."""
    return (folder() / name).read_text(encoding="utf-8")


@cache
def sections(name: str) -> dict[str, str]:
    """The statements of a file by name; a line `-- :name` begins one. What stands before the first is under ""."""
    statements: dict[str, list[str]] = {"": []}
    current = ""
    for line in read(name).splitlines():
        if line.startswith("-- :"):
            current = line[4:].strip()
            assert current not in statements, f"{name} names {current} twice"
            statements[current] = []
        else:
            statements[current].append(line)
    found = {key: "\n".join(lines).strip() for key, lines in statements.items()}
    for key, statement in found.items():
        named(statement, f"{Path(name).stem}.{key}")
    return found


_names: dict[str, str] = {}


def named(statement: str, name: str) -> str:
    """The statement, which from now on goes by `name` where people see it."""
    _names.setdefault(statement, name)
    return statement


def name_by_beginning(statement: str) -> str | None:
    """The name of the statement of our files that begins as `statement` does up to its first parameter; None for any
    other. For statements with parameters, which PostgreSQL shows filled in and cut off."""
    for text, name in _names.items():
        fixed = text.partition("%(")[0][:500]
        if len(fixed) >= 20 and statement.startswith(fixed):
            return name
    return None


def name_of(statement: str) -> str | None:
    """The name of a statement of our files, `file.section`; None for any other."""
    return _names.get(statement)
