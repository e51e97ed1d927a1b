"""What an operator reads about a database: one sentence each, with the remedy."""

from __future__ import annotations

from functools import partial

import psycopg2
import psycopg2.errors
import pytest

from appview_pipeline.settings import Settings
from appview_pipeline.store import database, migrate, sql
from appview_pipeline.store.database_url import libpq_url, parse_url, sqlalchemy_url
from appview_pipeline.store.operator_errors import operator_error
from appview_pipeline_tests.support.database import as_role, run
from appview_pipeline_tests.support.operator_errors import sentence_of
from appview_pipeline_tests.support.tables import rows


def test_the_schema_that_is_missing_old_new_or_not_ours_is_named(empty_url: str) -> None:
    settings = Settings(database_url=empty_url)
    assert "run `appview-pipeline migrate`" in sentence_of(lambda: database.open_database(settings))
    run(empty_url, "CREATE SCHEMA bsky")
    assert "did not make" in sentence_of(lambda: migrate.upgrade(empty_url))
    run(empty_url, "DROP SCHEMA bsky")
    migrate.upgrade(empty_url, "0001")
    assert "0001, older than" in sentence_of(lambda: database.open_database(settings))
    database.open_database(settings, migrate=True).close()
    run(empty_url, "UPDATE pipeline.schema_version SET version_num = '9999'")
    for action in (lambda: database.open_database(settings), lambda: migrate.upgrade(empty_url)):
        assert "9999, newer than" in sentence_of(action)


def test_a_server_or_database_that_is_not_there_is_named(server_url: str) -> None:
    absent = parse_url(server_url).set(database="absent").render_as_string(hide_password=False)
    assert "database absent on" in (sentence := sentence_of(lambda: migrate.upgrade(absent))) and "createdb" in sentence
    for url in ("postgres://u:secret@127.0.0.1:1/d", "postgresql://u:secret@/d?host=/nowhere"):
        sentence = sentence_of(partial(database.open_database, Settings(database_url=url)))
        assert "can't be reached" in sentence and "database d on " in sentence


def test_a_role_that_lacks_privileges_is_named(empty_url: str) -> None:
    run(empty_url, "DROP ROLE IF EXISTS weak")
    run(empty_url, "CREATE ROLE weak LOGIN")
    try:
        assert "weak lacks a privilege" in sentence_of(lambda: migrate.upgrade(as_role(empty_url, "weak")))
        migrate.upgrade(empty_url)
        assert "weak lacks a privilege" in sentence_of(
            lambda: database.open_database(Settings(database_url=as_role(empty_url, "weak")))
        )
    finally:
        run(empty_url, "DROP ROLE weak")


def test_a_role_that_may_create_schemas_is_enough(empty_url: str) -> None:
    """Managed servers give no superuser: what is not allowed beyond our schemas is left out with a warning."""
    run(empty_url, "DROP ROLE IF EXISTS plain")
    run(empty_url, "CREATE ROLE plain LOGIN")
    try:
        run(empty_url, f'grant create on database "{parse_url(empty_url).database}" to plain')
        url = as_role(empty_url, "plain")
        assert migrate.upgrade(url) == migrate.head()
        database.open_database(Settings(database_url=url)).close()
    finally:
        run(empty_url, "DROP OWNED BY plain")
        run(empty_url, "DROP ROLE plain")


def test_trigram_indexes_are_left_out_with_a_warning_where_the_extension_is_not_to_be_had(
    empty_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = sql.read
    monkeypatch.setattr(
        sql, "read", lambda name: whole(name).replace("NOT EXISTS pg_trgm", "NOT EXISTS pg_trgm_absent")
    )
    migrate.upgrade(empty_url)
    assert "pg_trgm is not available" in caplog.text
    assert rows(empty_url, "SELECT relname FROM pg_class WHERE relname LIKE '%tgrm%'") == []


def test_the_extension_is_used_from_where_it_is(empty_url: str) -> None:
    run(empty_url, "CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions")
    migrate.upgrade(empty_url)
    assert len(rows(empty_url, "SELECT relname FROM pg_class WHERE relname LIKE '%tgrm%'")) == 3


def test_a_database_that_is_not_utf8_is_refused(server_url: str) -> None:
    run(server_url, "DROP DATABASE IF EXISTS latin")
    run(server_url, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    latin = parse_url(server_url).set(database="latin").render_as_string(hide_password=False)
    try:
        assert "LATIN1" in sentence_of(lambda: migrate.upgrade(latin))
    finally:
        run(server_url, "DROP DATABASE latin WITH (FORCE)")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'connection to server failed: FATAL:  password authentication failed for user "u"',
            "refuses the password of u",
        ),
        ("fe_sendauth: no password supplied", "refuses the password of u"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', "pg_hba.conf"),
        ('FATAL:  pg_hba.conf rejects connection for host "1.2.3.4"', "pg_hba.conf"),
        ('FATAL:  role "u" does not exist', "has no role u"),
        ('FATAL:  database "role" does not exist', "createdb"),
        ("FATAL:  sorry, too many clients already", "no free connections"),
        ("FATAL:  the database system is starting up", "try again"),
        ("timeout expired", "can't be reached (timeout expired)"),
    ],
)
def test_a_failure_to_connect_is_one_sentence(message: str, expected: str) -> None:
    sentence = operator_error(psycopg2.OperationalError(message + "\nmore"), "postgres://u:secret@h:5/d")
    assert expected in str(sentence) and "secret" not in str(sentence) and "\n" not in str(sentence)


def test_errors_that_no_operator_can_mend_stay_what_they_are() -> None:
    for error in (psycopg2.errors.DeadlockDetected("x"), psycopg2.errors.QueryCanceled("x"), ValueError("x")):
        assert operator_error(error, "postgres://h/d") is None


@pytest.mark.parametrize(
    ("given", "for_sqlalchemy", "for_libpq"),
    [
        ("postgres://u:p%40ss@h:5/d", "postgresql+psycopg2://u:p%40ss@h:5/d", "postgresql://u:p%40ss@h:5/d"),
        (
            "postgresql://h/d?sslmode=require",
            "postgresql+psycopg2://h/d?sslmode=require",
            "postgresql://h/d?sslmode=require",
        ),
        (
            "postgresql+psycopg2://postgres@/appview?host=%2Frun%2Fx",
            "postgresql+psycopg2://postgres@/appview?host=%2Frun%2Fx",
            "postgresql://postgres@/appview?host=%2Frun%2Fx",
        ),
        ("postgresql+psycopg://h/d", "postgresql+psycopg2://h/d", "postgresql://h/d"),
    ],
)
def test_every_form_of_url_becomes_the_driver_s(given: str, for_sqlalchemy: str, for_libpq: str) -> None:
    assert sqlalchemy_url(given) == for_sqlalchemy
    assert libpq_url(given) == for_libpq


def test_what_is_no_url_of_postgresql_is_refused() -> None:
    assert "not PostgreSQL" in sentence_of(lambda: sqlalchemy_url("mysql://u:secret@h/d"))
    assert "can't be read" in sentence_of(lambda: sqlalchemy_url("h/d"))
    assert "can't be read" in sentence_of(lambda: sqlalchemy_url("postgresql://u:secret@h:port/d"))
    assert "not accepted" in sentence_of(lambda: migrate.current("postgresql://u:secret@h/d?nonsense=1"))
