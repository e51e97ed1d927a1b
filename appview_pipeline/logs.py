"""Logging of our own processes (command line, consumer): one line per record, for people or for log collectors.

Only the process's entry point calls `configure`; inside Dagster's processes Dagster's own set-up stands.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO
from urllib.parse import urlsplit

from appview_pipeline.addresses import AddressError, database_address
from appview_pipeline.settings import SETTINGS, Settings

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY = ("alembic", "asyncio", "picows", "sqlalchemy", "urllib3")
_ALWAYS_SHOWN = ("relay_url", "database_url")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Its lines at lower levels show connections with their parameters, of which only the password is hidden.
_NEVER_BELOW_WARNING = "sqlalchemy.pool"


def configure(settings: Settings, service: str, stream: TextIO | None = None) -> None:
    """Sets up logging by `settings.log_level` and `settings.log_format` for the process that runs `service`.

    Lines go to `stream` (default: standard error). Replaces what an earlier call set up, nothing else. `text` lines are
    `time level service logger: message key=value`, without `logger` where it is the service's own; `json` lines are
    objects with `time` (RFC 3339, UTC), `level`, `service`, `logger`, `message`, `exception` where there is one, and
    the fields given by `extra=`.
    """
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonLine(service) if settings.log_format == "json" else _TextLine(service))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level) if root.level > logging.DEBUG else "DEBUG")
    logging.getLogger(_NEVER_BELOW_WARNING).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


def log_start(settings: Settings, service: str, **more: object) -> None:
    """One line at the start of a service: its name and the settings that matter, `more` among them.

    Shown are the relay, the database, and what differs from its default; passwords are not.
    """
    shown = {
        setting.name: _shown(setting.name, getattr(settings, setting.name))
        for setting in SETTINGS
        if setting.name in _ALWAYS_SHOWN or getattr(settings, setting.name) != setting.default
    }
    logging.getLogger(f"appview_pipeline.{service}").info("Started", extra={**shown, **more})


def read_line(line: str) -> tuple[int, str]:
    """The level of a line that another process of ours logged, and what there is to log of it here: text without its
    time and level, which the log adds; a `json` line as it is. INFO and the whole line for a line of any other form.
    """
    if line.startswith("{"):
        try:
            return _level(json.loads(line).get("level")), line
        except ValueError:
            return logging.INFO, line
    _, name, text = (*line.split(maxsplit=2), "", "", "")[:3]
    return (_level(name), text) if name in _LEVELS else (logging.INFO, line)


def _level(name: object) -> int:
    level = logging.getLevelName(str(name))
    return level if isinstance(level, int) else logging.INFO


def _shown(name: str, value: object) -> object:
    """A setting for the log: URLs without user, password and query, paths as text, lists as an operator writes them."""
    if name == "database_url":
        return "embedded" if value is None else _database(str(value))
    if next(setting for setting in SETTINGS if setting.name == name).metadata["secret"]:
        return "(hidden)"
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _database(url: str) -> str:
    try:
        return database_address(url).named()
    except AddressError:  # opening it says what is wrong with it
        return "(unreadable)"


class _Handler(logging.StreamHandler[TextIO]):
    """A class of our own, so that `configure` leaves other handlers alone."""


class _TextLine(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {key}={_one_line(str(value))}" for key, value in _extra(record).items())
        logger = record.name.removeprefix("appview_pipeline.")
        origin = self._service if logger == self._service else f"{self._service} {logger}"
        message = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {origin}: {message}{extra}"
        exception = _exception(self, record)
        return f"{line}\n{exception}" if exception else line


class _JsonLine(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in _extra(record).items() if key not in line)
        exception = _exception(self, record)
        if exception:
            line["exception"] = exception
        return json.dumps(line, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _ORDINARY}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    texts = []
    if record.exc_info:
        texts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        texts.append(formatter.formatStack(record.stack_info))
    return "\n".join(texts)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _one_line(text: str) -> str:
    """Text that can't end the line or forge another one: names and messages from upstream get into logs."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
