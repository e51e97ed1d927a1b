"""The SQL files read from top to bottom: heads, descriptions, and one case of keywords."""

from __future__ import annotations

import re

import pytest

from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.store import sql
from appview_pipeline_tests.support.checkout import CHECKOUT

FILES = sorted(str(path.relative_to(CHECKOUT / "sql")) for path in (CHECKOUT / "sql").rglob("*.sql"))
STATEMENT_FILES = [name for name in FILES if name.startswith("schema/online/") or not name.startswith("schema/")]

KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        all alter and any array as asc begin between by case cast check collate commit conflict constraint create cross
        declare default delete desc distinct drop else end except execute exists filter for foreign from full function
        group having if immutable in index inner insert intersect into is join lateral like limit materialized not
        nothing null nulls offset on or order outer over partition primary raise recursive references returning returns
        schema select set stable table temporary then truncate unbounded union unique update using values view when
        where window with
        """,
    )
)
"""Words that are upper case wherever they stand as keywords; no table or column of ours has such a name."""

_TOKEN = re.compile(
    r"""
      --[^\n]* | \$\w*\$ | [eE]?'(?:[^'\\]|\\.|'')*' | "[^"]*"   # comment, quote of a body, text, quoted name
    | %\(\w+\)s | \{\w+\} | \.\s*\w+                              # parameter, placeholder, a column of something
    | (?P<word>[A-Za-z_]\w*)
    """,
    re.VERBOSE,
)
_CTE = re.compile(r"(?:^WITH (?:RECURSIVE )?|^\), )(\w+)(?: \([\w, ]+\))? AS (?:MATERIALIZED )?\($", re.MULTILINE)
MAX_PLAIN_CTES = 3
MAX_LINE = 120
MAX_NAME = 63


@pytest.mark.parametrize("name", STATEMENT_FILES)
def test_every_statement_is_described_under_its_name(name: str) -> None:
    head, *_ = statements = sql.statements(name).values()
    assert "Guarantees" in head.description, f"{name} does not say what it guarantees"
    assert bool(head.text) == (len(statements) == 1), f"{name} has a statement without a name beside others"
    plain = [key for key, statement in sql.statements(name).items() if not statement.description]
    assert not plain, f"{name} describes not: {', '.join(plain)}"


@pytest.mark.parametrize("name", STATEMENT_FILES)
def test_of_a_long_statement_the_rows_of_each_part_are_described(name: str) -> None:
    for key, statement in sql.statements(name).items():
        parts = _CTE.findall(statement.text)
        if len(parts) > MAX_PLAIN_CTES:
            silent = [
                part for part in parts if not re.search(rf"^- .*\b{part}\b.*:|; {part}:", statement.description, re.M)
            ]
            assert not silent, f"{name}, {key} describes not: {', '.join(silent)}"


def test_names_of_prepared_statements_are_not_cut_off() -> None:
    """PostgreSQL cuts names at 63 bytes, with a notice each time."""
    names = [f"{name.rpartition('/')[2][:-4]}.{key}" for name in STATEMENT_FILES for key in sql.sections(name)]
    names += [
        f"duplicates.{key} of {effect.name}"
        for key in sql.sections("apply/duplicates.sql")
        for effect in EFFECTS.in_order
        if effect.natural_key
    ]
    assert [name for name in names if len(f"{name}, small batches".encode()) > MAX_NAME] == []


def test_comments_above_a_statement_are_not_sent() -> None:
    for name in STATEMENT_FILES:
        for key, text in sql.sections(name).items():
            assert not text.startswith("--"), (name, key)
            assert not text.rpartition("\n")[2].startswith("--"), (name, key)


@pytest.mark.parametrize("name", STATEMENT_FILES)
def test_lines_are_no_longer_than_those_of_python(name: str) -> None:
    assert [line for line in sql.read(name).splitlines() if len(line) > MAX_LINE] == []


@pytest.mark.parametrize("name", FILES)
def test_keywords_are_upper_case(name: str) -> None:
    words = [match["word"] for match in _TOKEN.finditer(sql.read(name)) if match["word"]]
    assert words
    assert {word for word in words if word in KEYWORDS} == set()


def test_a_lower_case_keyword_would_be_found() -> None:
    text = "SELECT \"from\", 'where', x.order, %(limit)s, {table} -- in a comment\nfrom t"
    words = [match["word"] for match in _TOKEN.finditer(text) if match["word"]]
    assert words == ["SELECT", "x", "from", "t"]
