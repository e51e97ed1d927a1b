"""Addresses: a database's as libpq reads it, a relay's under one name, and neither with its secrets."""

from __future__ import annotations

import traceback

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from appview_pipeline.addresses import (
    AddressError,
    DatabaseAddress,
    basic_authorization,
    database_address,
    relay_name,
    split_relay,
)
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import database_url, migrate
from appview_pipeline.store.database import open_database
from appview_pipeline.store.database_url import libpq_url, sqlalchemy_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.support.database import run_sql

READABLE = {
    "postgresql://user:p@host:5433/db": "database db on host:5433",
    "postgres://host/hunt%20x": "database hunt x on host",
    "postgresql+psycopg2://u%40x:p%40%2F%3A@h/a%2Fb%3F%23%25": "database a/b?#% on h",
    "postgresql://u:p?w#s&t=u@h/d": "database d on h",
    "postgresql://u@h1:5432,h2:5433/db?target_session_attrs=any": "database db on h1:5432,h2:5433",
    "postgresql://h1,h2:7/db": "database db on h1,h2:7",
    "postgresql://[::1]:5/d": "database d on [::1]:5",
    "postgresql://[::1],[fe80::2]:7/d": "database d on [::1],[fe80::2]:7",
    "postgresql://%2Frun%2Fpg/d": "database d on /run/pg",
    "postgresql:///d?host=/run/pg&port=7": "database d on /run/pg:7",
    "postgresql+psycopg2://postgres@/appview?host=%2Frun%2Fx&port=5432": "database appview on /run/x",
    "postgresql:///d?host=%40abstract": "database d on @abstract",
    "postgresql://h%31.example/d?ssl=true": "database d on h1.example",
    "postgresql://u@h/": "database u on h",
    "postgresql://u:@h/d": "database d on h",
    "postgresql://": "database (default) on the local socket",
    "postgresql:///?service=mine": "database (default) of service mine",
    "host=h user=u password='a b' dbname='d x' port=6": "database d x on h:6",
    "postgresql://h/line%0Abreak": "database line\\nbreak on h",
}


@pytest.fixture(autouse=True)
def no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("text", READABLE)
def test_a_database_is_what_libpq_reads(text: str) -> None:
    address = database_address(text)
    libpq = parse_dsn(text.replace("postgresql+psycopg2://", "postgresql://"))
    assert dict(address.parameters) == {name: value for name, value in libpq.items() if value}
    assert address.describe() == READABLE[text]
    for scheme in ("postgresql", "postgresql+psycopg2"):
        assert database_address(address.url(scheme)) == address, "written as one URL it stays what it is"
    assert load({"DATABASE_URL": text}).database_url == text
    assert database_url.describe(text) == READABLE[text]


def test_what_the_environment_says_is_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": "e", "PGPORT": "9", "PGUSER": "me"}.items():
        monkeypatch.setenv(name, value)
    assert database_address("postgresql://").describe() == "database me on e:9"
    assert database_address("postgresql://").user == "me"
    assert database_address("postgresql://h:5/d").describe() == "database d on h:5"


UNREADABLE = [
    "postgresql://u:hush@secret@h/d",
    "postgresql://u:hush/secret@h/d",
    "postgresql://u:12/hush@h/d",
    "postgresql://u:p@hush/secret@h/d",
    "postgresql://h?password=hush@secret",
    "postgresql://u:hush@h:port/d",
    "postgresql://u:hush@h:0/d",
    "postgresql://u:hush@h:5432x/d",
    "postgresql://u:hush%zz@h/d",
    "postgresql://u:hush@[::1/d",
    "postgresql://u:hush@h/d?nonsense=secret",
    "postgresql://u:p@h/d?password=hush&secret",
    "postgresql://u:p@h/d?password=hush&secret=1",
    "postgresql://u:hush@h secret/d",
    "postgresql://u:hush\n@h/d",
    "postgresql://u:hush\x00@h/d",
    "mysql://u:hush@h/d",
    "jdbc:postgresql://h/d?user=u&password=hush",
    "postgresql:/u:hush@h/d",
    "u:hush@h/d",
    "host=h password=hush secret",
    "host=h password=hush secret=1",
    "host=h password='hush",
    "hush",
]


def words_of(error: BaseException) -> str:
    """All that a traceback of `error` shows, its causes and contexts too."""
    return "".join(traceback.format_exception(error)) + repr(error.__cause__) + repr(error.__context__)


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_can_be_read_in_two_ways_is_refused_without_being_shown(text: str) -> None:
    for read in (
        database_address,
        lambda it: load({"DATABASE_URL": it}),
        database_url.describe,
        libpq_url,
        lambda it: open_database(Settings(database_url=it)),
    ):
        with pytest.raises((AddressError, Exception)) as caught:
            read(text)
        assert not isinstance(caught.value, psycopg2.Error)
        shown = words_of(caught.value).replace(f"it={text!r}", "")
        assert "hush" not in shown and "secret" not in shown, shown
        assert "\n" not in str(caught.value)


def test_secrets_in_the_messages_of_others_are_replaced() -> None:
    address = DatabaseAddress({"password": "p@ss word", "sslpassword": "other"})
    message = "refused: p@ss word, p%40ss%20word, other"
    assert address.without_secrets(message) == "refused: ***, ***, ***"
    assert "p@ss" not in repr(address)


@pytest.mark.parametrize("name", ["hunt x", "a/b?c#d%e@f", "ünï", 'it\'s "quoted"', "percent%20"])
def test_a_database_with_an_odd_name_is_migrated_and_opened(server: EmbeddedPostgres, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    run_sql(server, f"CREATE DATABASE {quoted}")
    url = server.url(name)
    try:
        assert migrate.upgrade(url) == migrate.head() == migrate.current(url)
        opened = open_database(Settings(database_url=url))
        with opened.connect("reader") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (name,)
        with opened.dedicated("writer") as connection:
            assert connection.info.dbname == name
        opened.close()
        for form in (libpq_url(url), sqlalchemy_url(url), sqlalchemy_url(opened.url)):
            assert database_url.describe(form).startswith(f"database {name} on ")
    finally:
        run_sql(server, f"DROP DATABASE {quoted} WITH (FORCE)")


def test_the_first_of_several_hosts_that_answers_is_used(server: EmbeddedPostgres, template_database: str) -> None:
    run_sql(server, f'CREATE DATABASE "of several" TEMPLATE "{template_database}"')
    folder = str(server.socket_dir).replace("/", "%2F")
    try:
        for url in (
            f"postgresql://postgres@127.0.0.1:1,{folder}:5432/of%20several",
            f"postgresql://postgres@/of%20several?host=%2Fnowhere,{folder}&port=1,5432&target_session_attrs=read-write",
            f"host=/nowhere,{server.socket_dir} port=5432 user=postgres dbname='of several'",
        ):
            opened = open_database(Settings(database_url=url))
            with opened.connect("writer") as connection:
                assert connection.info.dbname == "of several"
            opened.close()
    finally:
        run_sql(server, 'DROP DATABASE "of several" WITH (FORCE)')


@pytest.mark.parametrize(
    ("text", "name", "credentials"),
    [
        ("wss://relay.example", "wss://relay.example", None),
        ("Relay.Example", "wss://relay.example", None),
        ("WSS://RELAY.example:443/", "wss://relay.example", None),
        ("https://relay.example./xrpc/com.atproto.sync.subscribeRepos?cursor=1", "wss://relay.example", None),
        ("http://h:80", "ws://h", None),
        ("ws://h:443", "ws://h:443", None),
        ("wss://h:0443", "wss://h", None),
        ("wss://[0:0:0::1]:8080", "wss://[::1]:8080", None),
        ("wss://Bücher.example", "wss://xn--bcher-kva.example", None),
        ("wss://user:hush@Relay.example", "wss://relay.example", "user:hush"),
        ("user:hush@relay.example:2470", "wss://relay.example:2470", "user:hush"),
        ("wss://us%40er:hu%2Fsh@relay.example", "wss://relay.example", "us@er:hu/sh"),
        ("wss://user:hu@sh@relay.example", "wss://relay.example", "user:hu@sh"),
        ("wss://token@relay.example", "wss://relay.example", "token:"),
    ],
)
def test_a_relay_has_one_name(text: str, name: str, credentials: str | None) -> None:
    assert split_relay(text) == (name, credentials)
    assert relay_name(name) == name == relay_name(text)
    for settings in (load({"RELAY_URL": text}), Settings(relay_url=text)):
        assert (settings.relay_url, settings.relay_credentials) == (name, credentials)
        assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        "wss://user:hu/sh@h",
        "wss://user:12/sh@h",
        "wss://user:1?sh@h",
        "user:1#sh@h",
        "wss://user:hush@h:port",
        "wss://user:hush@",
        "wss://user:hush@h h",
        "ftp://user:hush@h",
        "wss://user:hush@[::1",
        "wss://user:hush@a%b",
    ],
)
def test_a_relay_that_can_be_read_in_two_ways_is_refused_without_being_shown(text: str) -> None:
    for read in (split_relay, lambda it: load({"APPVIEW_RELAY_URL": it}), lambda it: Settings(relay_url=it)):
        with pytest.raises((AddressError, Exception)) as caught:
            read(text)
        shown = words_of(caught.value)
        assert "hush" not in shown and "sh@" not in shown and "user" not in str(caught.value).replace("user and", "")
    assert relay_name(text) == text


def test_credentials_may_be_a_setting_of_their_own() -> None:
    settings = load({"RELAY_URL": "wss://a:b@h", "APPVIEW_RELAY_CREDENTIALS": "user:hush"})
    assert (settings.relay_url, settings.relay_credentials) == ("wss://h", "user:hush")
    with pytest.raises(Exception, match=r"APPVIEW_RELAY_CREDENTIALS=\(hidden\) must be user:password"):
        load({"APPVIEW_RELAY_CREDENTIALS": "hush"})
    assert basic_authorization("Aladdin:open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617
