"""Log lines: one a record, for people or collectors, without secrets, and not to be forged by upstream's text."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import pytest

from appview_pipeline import logs
from appview_pipeline.addresses import NameServer
from appview_pipeline.settings import Settings

HOSTILE = "name\n2026-01-01 ERROR forged\r\x1b[31m \u202e \x00"


pytestmark = pytest.mark.usefixtures("restored_logging")


def configured(**settings: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(Settings(**settings), "consumer", stream)  # type: ignore[arg-type]
    return stream


def test_text_lines() -> None:
    stream = configured()
    logger = logging.getLogger("appview_pipeline.network.subscription")
    logger.info("Connected to %s.", "x", extra={"cursor": 5, "é": "ü"})
    time, rest = stream.getvalue().split(" ", 1)
    assert rest == "INFO    consumer network.subscription: Connected to x. cursor=5 é=ü\n"
    assert len(time) == len("2026-07-04T14:38:09.123Z") and time.endswith("Z")


def test_the_services_own_logger_is_not_named_twice() -> None:
    stream = configured()
    logging.getLogger("appview_pipeline.consumer").info("512 events/s")
    assert stream.getvalue().endswith(" INFO    consumer: 512 events/s\n")


def test_json_lines() -> None:
    stream = configured(log_format="json")
    logger = logging.getLogger("appview_pipeline.x")
    logger.warning("said %r", "é\ud800", extra={"cursor": 5, "path": Path("/a"), "level": "forged", "nothing": None})
    try:
        raise ValueError("bad\nnews")
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING",
        "service": "consumer",
        "logger": "appview_pipeline.x",
        "message": "said 'é\\ud800'",
        "cursor": 5,
        "path": "/a",
        "nothing": None,
    }
    assert second["exception"].startswith("Traceback") and second["exception"].endswith("ValueError: bad\nnews")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_upstream_text_can_not_forge_a_line(log_format: str) -> None:
    stream = configured(log_format=log_format)
    logging.getLogger("x").info("%s", HOSTILE, extra={"did": HOSTILE})
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    if log_format == "json":
        assert json.loads(line)["did"] == HOSTILE


def test_levels_and_other_loggers() -> None:
    stream = configured(log_level="WARNING")
    logging.getLogger("appview_pipeline.x").info("not shown")
    assert stream.getvalue() == ""
    stream = configured()
    logging.getLogger("sqlalchemy.engine").info("not shown")
    logging.getLogger("alembic.runtime").warning("shown")
    warnings.warn("careful", UserWarning, stacklevel=1)
    assert "not shown" not in stream.getvalue()
    assert "alembic.runtime: shown" in stream.getvalue()
    assert "careful" in stream.getvalue()
    stream = configured(log_level="DEBUG")
    logging.getLogger("sqlalchemy.engine").debug("shown now")
    assert "shown now" in stream.getvalue()
    configured(log_level="ERROR")
    assert not logging.getLogger("urllib3").isEnabledFor(logging.WARNING)


def test_configuring_again_replaces_ours_and_only_ours() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = configured(), configured()
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert other in logging.getLogger().handlers


def test_the_start_line_shows_what_matters_and_no_secret() -> None:
    stream = configured(log_format="json")
    settings = Settings(
        database_url="postgresql://user:secret@db.example:5432/appview?password=secret2",
        relay_url="wss://relay.example",
        plc_url="https://user:secret@plc.example/?key=secret3",
        batch_events=7,
        state_dir=Path("/state"),
        dns_servers=(NameServer("1.1.1.1"), NameServer("2606:4700::1111", 5353)),
    )
    logs.log_start(settings, "consumer", version="1.2")
    assert "secret" not in stream.getvalue()
    line = json.loads(stream.getvalue())
    assert (line["service"], line["message"]) == ("consumer", "Started")
    assert line["database_url"] == "postgresql://db.example:5432/appview"
    assert (line["relay_url"], line["batch_events"], line["version"]) == ("wss://relay.example", 7, "1.2")
    assert (line["state_dir"], line["dns_servers"]) == ("/state", "1.1.1.1,[2606:4700::1111]:5353")
    assert line["plc_url"] == "https://plc.example/"
    logs.log_start(Settings(), "replay")
    line = json.loads(stream.getvalue().splitlines()[1])
    assert "plc_url" not in line
    assert (line["database_url"], line["relay_url"]) == ("embedded", "wss://bsky.network")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_can_be_read_back(form: str) -> None:
    stream = io.StringIO()
    logs.configure(Settings(log_format=form), "consumer", stream)
    logging.getLogger("appview_pipeline.x").warning("A batch has been at work for 31 s")
    logging.getLogger("appview_pipeline.x").info("ERROR is only a word here")
    logging.getLogger("appview_pipeline.x").error("given up")
    lines = stream.getvalue().splitlines()
    levels, texts = zip(*map(logs.read_line, lines), strict=True)
    assert levels == (logging.WARNING, logging.INFO, logging.ERROR)
    if form == "text":
        assert texts[0] == "consumer x: A batch has been at work for 31 s"
    else:
        assert texts == tuple(lines)
    for other in ("", "Traceback", "{", "{}", "a b c", "a INFORMAL c", "  indented  as  it  is"):
        assert logs.read_line(other) == (logging.INFO, other)
