"""COPY: any text, number or bytes come back as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appview_pipeline.store.staging import Value, copy_rows, copy_text
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.hostile_text import HOSTILE, hostile
from appview_pipeline_tests.support.tables import Fresh

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def scratch(fresh: Fresh) -> Iterator[psycopg2.extensions.connection]:
    """A connection with a temporary table of each type that staging tables have."""
    with fresh() as made, connect(made.url) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                'CREATE TEMPORARY TABLE scratch (a text, b varchar, c text COLLATE "C", n bigint, f boolean, r bytea, '
                "j jsonb) ON COMMIT PRESERVE ROWS; CREATE TEMPORARY TABLE thin (a text)"
            )
        connection.commit()
        yield connection


def copied(
    connection: psycopg2.extensions.connection, table: str, columns: Sequence[str], given: Sequence[Sequence[Value]]
) -> list[tuple[Any, ...]]:
    """What COPY made of rows, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
        copy_rows(cursor, table, columns, given)
        cursor.execute(f"SELECT {', '.join(columns)} FROM {table}")
        found = cursor.fetchall()
    connection.rollback()
    return found


def stripped(value: Value) -> Value:
    return value.replace("\0", "") if isinstance(value, str) else value


texts = st.one_of(st.none(), hostile)


@settings(quick, max_examples=200)
@given(given=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5))
@example(given=[(text, "beside", None) for text in HOSTILE])
@example(given=[("plain", "text", "only"), (None, None, None), ("\x01", "\\x01", "")])
@example(given=[("tab\there", "new\nline", "x")])
@example(given=[("one\ttab", None, "x\x01")])
def test_any_text_comes_back(
    scratch: psycopg2.extensions.connection, given: list[tuple[str | None, str | None, str | None]]
) -> None:
    found = copied(scratch, "scratch", ("a", "b", "c"), given)
    assert found == [tuple(stripped(value) for value in row) for row in given]


@settings(quick, max_examples=100)
@given(given=st.lists(st.tuples(texts), min_size=1, max_size=6))
@example(given=[("",), (None,), ("",)])
@example(given=[("\\.",), ("a",)])
@example(given=[("",)])
def test_a_single_column_too(scratch: psycopg2.extensions.connection, given: list[tuple[str | None]]) -> None:
    assert copied(scratch, "thin", ("a",), given) == [(stripped(value),) for (value,) in given]


@settings(quick, max_examples=100)
@given(
    given=st.lists(
        st.tuples(
            texts,
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            st.one_of(st.none(), st.booleans()),
            st.one_of(st.none(), st.binary(max_size=40)),
            st.one_of(st.none(), st.lists(hostile.map(lambda text: text.replace("\0", "")), max_size=3)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_row_comes_back(scratch: psycopg2.extensions.connection, given: list[tuple[Any, ...]]) -> None:
    sent = [(*row[:4], None if row[4] is None else json.dumps(row[4])) for row in given]
    found = copied(scratch, "scratch", ("a", "n", "f", "r", "j"), sent)
    got = [(a, n, f, None if r is None else bytes(r), j) for a, n, f, r, j in found]
    assert got == [(stripped(row[0]), *row[1:]) for row in given]


def test_plain_rows_are_copied_as_they_are() -> None:
    """The quick way for rows with nothing to escape gives the same bytes as the careful one."""
    plain = [("a", None, "😀"), ("", "b", None)]
    assert copy_text(plain) == "a\t\x01\t😀\n\tb\t\x01\n".encode()
    assert copy_text([*plain, ("c", "d\\", None)]) == copy_text(plain) + b"c\td\\\\\t\x01\n"
