"""Settings: what they are read from, what is refused, and that the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import SETTINGS, Settings, load, table
from appview_pipeline_tests.support.checkout import CHECKOUT


def test_nothing_set_gives_the_defaults() -> None:
    assert load({}) == Settings()
    assert load({"APPVIEW_BATCH_EVENTS": "", "RELAY_URL": "  "}) == Settings(), "empty is unset"
    assert Settings().relay_url == "wss://bsky.network" and Settings().database_url is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("database_url", "postgresql://u:p@host:5433/db", "postgresql://u:p@host:5433/db"),
        ("database_url", "postgres:///db?host=/run/pg", "postgres:///db?host=/run/pg"),
        ("database_url", "postgresql+psycopg2://host/db", "postgresql+psycopg2://host/db"),
        ("relay_url", "https://relay.example/", "wss://relay.example"),
        ("relay_url", "http://localhost:2470", "ws://localhost:2470"),
        ("relay_url", "relay.example", "wss://relay.example"),
        ("relay_url", "wss://relay.example/xrpc/com.atproto.sync.subscribeRepos", "wss://relay.example"),
        ("plc_url", "http://127.0.0.1:2582/", "http://127.0.0.1:2582"),
        ("well_known_url", "http://{handle}:2583/did", "http://{handle}:2583/did"),
        ("db_pool_size", "12", 12),
        ("start_cursor", "0", 0),
        ("batch_seconds", "0.25", 0.25),
        ("log_level", "warning", "WARNING"),
        ("log_format", "JSON", "json"),
        ("state_dir", "/var/lib/appview", Path("/var/lib/appview")),
        ("new_accounts", "4", 4),
        ("extra_collections", "sh.tangled.*, pub.leaflet.document", ("sh.tangled.*", "pub.leaflet.document")),
    ],
)
def test_a_setting_is_parsed(name: str, text: str, value: object) -> None:
    variables = next(setting.metadata["variables"] for setting in SETTINGS if setting.name == name)
    for variable in variables:
        assert getattr(load({variable: f" {text} "}), name) == value


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("DATABASE_URL", "database_url"),
        ("RELAY_URL", "relay_url"),
        ("DB_POOL_SIZE", "db_pool_size"),
        ("LOG_LEVEL", "log_level"),
        ("LOG_FORMAT", "log_format"),
    ],
)
def test_the_predecessors_variables_count_unless_ours_is_set(old: str, name: str) -> None:
    texts = {
        "database_url": ("postgresql://old/db", "postgresql://new/db"),
        "relay_url": ("wss://old.example", "wss://new.example"),
        "db_pool_size": ("3", "4"),
        "log_level": ("DEBUG", "ERROR"),
        "log_format": ("json", "text"),
    }[name]
    assert str(getattr(load({old: texts[0]}), name)) == texts[0]
    assert str(getattr(load({old: texts[0], f"APPVIEW_{old}": texts[1]}), name)) == texts[1]
    assert str(getattr(load({old: texts[0], f"APPVIEW_{old}": ""}), name)) == texts[0]


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("APPVIEW_DB_POOL_SIZE", "0", "between 1 and 500"),
        ("DB_POOL_SIZE", "ten", "not a number"),
        ("APPVIEW_BATCH_EVENTS", "1e3", "not a number"),
        ("APPVIEW_BATCH_SECONDS", "nan", "between"),
        ("APPVIEW_BATCH_SECONDS", "inf", "between"),
        ("APPVIEW_START_CURSOR", "-1", "between"),
        ("APPVIEW_RELAY_URL", "ftp://relay.example", "wss://"),
        ("RELAY_URL", "wss://", "must be a URL"),
        ("APPVIEW_PLC_URL", "plc.directory", "https://"),
        ("APPVIEW_WELL_KNOWN_URL", "https://example.com/.well-known/atproto-did", "host is {handle}"),
        ("APPVIEW_WELL_KNOWN_URL", "ftp://{handle}/did", "host is {handle}"),
        ("APPVIEW_WELL_KNOWN_URL", "https://{handle}:99999/did", "host is {handle}"),
        ("APPVIEW_WELL_KNOWN_URL", "https://{handle}/{did}", "host is {handle}"),
        ("DATABASE_URL", "mysql://host/db", "postgresql://"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO"),
        ("APPVIEW_LOG_FORMAT", "xml", "one of text, json"),
        ("APPVIEW_EXTRA_COLLECTIONS", "a b", "separated by commas"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_variable(variable: str, text: str, words: str) -> None:
    with pytest.raises(OperatorError) as caught:
        load({variable: text})
    sentence = str(caught.value)
    assert sentence.startswith(f"{variable}=") and words in sentence and "\n" not in sentence
    assert sentence.endswith("correct it or unset it.")


@pytest.mark.parametrize("text", ["mysql://user:hush@host/db", "ftp://user:hush@host", "user:hush@host:x"])
def test_a_mistake_shows_no_password(text: str) -> None:
    for variable in ("DATABASE_URL", "APPVIEW_RELAY_URL", "APPVIEW_PLC_URL"):
        try:
            load({variable: text})
        except OperatorError as error:
            assert "hush" not in str(error)


@pytest.mark.parametrize(
    "text", ["wss://relay.example:port", "wss://relay.example:99999", "wss://[::1", "https://[half", "wss://a]b"]
)
def test_a_url_that_can_not_be_read_is_a_mistake_too(text: str) -> None:
    with pytest.raises(OperatorError, match=r"APPVIEW_RELAY_URL=.* must be a URL"):
        load({"APPVIEW_RELAY_URL": text})


def test_the_documentation_holds_the_table_of_settings() -> None:
    assert table() in (CHECKOUT / "docs" / "settings.md").read_text()


def test_every_setting_says_what_it_means() -> None:
    variables = [variable for setting in SETTINGS for variable in setting.metadata["variables"]]
    assert len(variables) == len(set(variables))
    for setting in SETTINGS:
        assert setting.metadata["variables"][0] == f"APPVIEW_{setting.name.upper()}"
        assert setting.metadata["meaning"].endswith((".", "?"))
