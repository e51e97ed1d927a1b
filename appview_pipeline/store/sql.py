"""The SQL files, by name. They live in `sql/` at the top of the checkout and inside the package once installed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import dropwhile
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


@dataclass(frozen=True)
class Statement:
    """A statement of a file: what PostgreSQL gets, and the comment that describes it. Or a part of other statements,
    which a placeholder stands for in them (`placeholders.py`)."""

    text: str
    description: str


@cache
def statements(name: str) -> dict[str, Statement]:
    """The statements of a file by name, in order.

    A line `-- :name` begins one; comment lines that describe it follow, then its text. A file of one statement has no
    such line: its head describes the statement, whose name is "".
    """
    lines: dict[str, list[str]] = {"": []}
    current = ""
    for line in read(name).splitlines():
        if line.startswith("-- :"):
            current = line[4:].strip()
            assert current not in lines, f"{name} names {current} twice"
            lines[current] = []
        else:
            lines[current].append(line)
    found = {key: _statement(part) for key, part in lines.items()}
    for key, statement in found.items():
        if statement.text:
            named(statement.text, f"{Path(name).stem}.{key}" if key else Path(name).stem)
    return found


def _statement(lines: list[str]) -> Statement:
    text = list(dropwhile(lambda line: not line or line.startswith("--"), lines))
    description = (line.removeprefix("--").removeprefix(" ") for line in lines[: len(lines) - len(text)])
    return Statement("\n".join(text).strip(), "\n".join(description).strip())


@cache
def sections(name: str) -> dict[str, str]:
    """The texts of a file's statements by name, without their descriptions."""
    return {key: statement.text for key, statement in statements(name).items()}


_names: dict[str, str] = {}


def named(statement: str, name: str) -> str:
    """Registers the name under which people see a statement, and returns the statement."""
    _names.setdefault(statement, name)
    return statement


def name_by_beginning(statement: str) -> str | None:
    """The name of the statement of our files that begins as `statement` does, up to its first parameter; None for any
    other. For statements with parameters: PostgreSQL shows them with values, and cut off."""
    for text, name in _names.items():
        fixed = text.partition("%(")[0][:500]
        if len(fixed) >= 20 and statement.startswith(fixed):
            return name
    return None


def name_of(statement: str) -> str | None:
    """The name of a statement of our files, `file.name`; None for any other."""
    return _names.get(statement)
