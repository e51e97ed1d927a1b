"""Asking a server whether it is healthy: `appview-pipeline healthy`, for HEALTHCHECK and for people."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings

MAX_ANSWER_BYTES = 65_536
"""Part of an answer that is read."""


@dataclass(frozen=True)
class Health:
    """What a server answered: whether it is healthy, and a sentence for people."""

    is_healthy: bool
    sentence: str


def default_url(settings: Settings) -> str:
    """`/readyz` of `appview-pipeline serve` on this machine."""
    host, port = settings.metrics_address
    # Where a server listens at all addresses, this machine is one of them.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/readyz"


def ask(url: str, seconds: float = backoff.HEALTHY_SECONDS) -> Health:
    """Asks `url`, which is healthy if it answers with a status of 200 to 299 within `seconds`. Redirects are not
    followed, and no proxy is asked.

    Raises `OperatorError` where it is not a URL of http or https, or names a user, whom nobody would be told.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is not None and "@" in parts.netloc:  # never quoted back
        raise OperatorError(f"The URL of {host} names a user, and no password is sent: leave that out.")
    if host is None or parts.scheme not in ("http", "https") or not url.isascii():
        raise OperatorError(f"{url[:300]!r} is not a URL that can be asked: http://host:port/path.")
    connections = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = connections[parts.scheme](host, port, timeout=seconds)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER_BYTES)
    except (OSError, UnicodeError, http.client.HTTPException) as error:  # UnicodeError: no name of a host
        reason = "it did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return Health(False, f"{url} can't be asked: {reason}.")
    finally:
        connection.close()
    is_healthy = 200 <= answer.status < 300
    return Health(is_healthy, _sentence(body) or f"{url} answered {answer.status} {answer.reason}.")


def _sentence(body: bytes) -> str | None:
    """What an answer of ours says (`operations/health.py`); None for any other answer."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return None
    sentence = found.get("sentence") if isinstance(found, dict) else None
    return sentence if isinstance(sentence, str) and sentence else None
