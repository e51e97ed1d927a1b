"""`requests` and urllib3 on our sockets: a pool of connections for each server, which looks its host up by itself.

The check of addresses is in the connection, where urllib3 would look the name up. So there is no moment between the
check and the connection, in which the name could get another address, and a pooled connection was checked when it was
made. No session of `requests` is used: it would follow redirects, keep cookies and read the environment's proxies.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from appview_pipeline.backoff import IDLE_CONNECTION_SECONDS
from appview_pipeline.network.budget import current
from appview_pipeline.network.checked_sockets import connect, tls_error
from appview_pipeline.network.hosts import Hosts, Target

# They warn, with a traceback, of what any server on the network may send as often as it likes.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
logging.getLogger("urllib3.response").setLevel(logging.ERROR)


def _checked(hosts: Hosts, target: Target) -> socket.socket:
    """A new connection to an address of the target's host."""
    budget = current()
    addresses = hosts.addresses(target, budget.left())
    budget.begin_connection()
    return connect(addresses, target.port, budget)


class _PlainConnection(HTTPConnection):
    """A connection without TLS: to the operator's own servers, or in a closed network."""

    def __init__(self, *arguments: Any, hosts: Hosts, target: Target, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hosts, self._target = hosts, target

    def _new_conn(self) -> socket.socket:
        return _checked(self._hosts, self._target)


class _TLSConnection(HTTPSConnection):
    """A connection with TLS; urllib3 gives the host's name to it."""

    def __init__(self, *arguments: Any, hosts: Hosts, target: Target, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hosts, self._target = hosts, target

    def _new_conn(self) -> socket.socket:
        return _checked(self._hosts, self._target)

    def connect(self) -> None:
        """Connects, and sets TLS up. Raises `FetchError`."""
        try:
            super().connect()
        except (OSError, ssl.CertificateError) as error:
            raise tls_error(error, current()) from None


class _PlainPool(HTTPConnectionPool):
    """A pool in which a connection that was idle for too long is not used again."""

    ConnectionCls: type[HTTPConnection] = _PlainConnection

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)
        since = getattr(connection, "idle_since", None)
        if since is not None and (current().wants_connection or time.monotonic() - since > IDLE_CONNECTION_SECONDS):
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)


class _TLSPool(_PlainPool, HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = _TLSConnection


def new_pool(target: Target, hosts: Hosts, context: ssl.SSLContext | None, max_idle: int) -> HTTPConnectionPool:
    """A pool of connections to the server of `target`, which keeps at most `max_idle` of them for later requests.

    `context` is for TLS, if the target has it.
    """
    host = f"[{target.host}]" if ":" in target.host else target.host
    if target.scheme == "http":
        return _PlainPool(host, target.port, maxsize=max_idle, hosts=hosts, target=target)
    assert context is not None, "urllib3 would make one of its own, with sockets that are not ours"
    return _TLSPool(host, target.port, maxsize=max_idle, hosts=hosts, target=target, ssl_context=context)


class Adapter(HTTPAdapter):
    """Sends requests through the pool that it was given. Knows no proxies.

    `in_flight`: the requests that use it now, counted by its owner.
    """

    def __init__(self, pool: HTTPConnectionPool) -> None:
        super().__init__(max_retries=0)
        self.in_flight = 0
        self._pool = pool

    def close(self) -> None:
        """Closes the connections that are idle; the others follow when they are."""
        self._pool.close()

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> HTTPConnectionPool:
        """Called by `send`: the pool."""
        return self._pool

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Called by `send`: the pool's own context verifies."""


def prepared(url: str, headers: Mapping[str, str], body: bytes | None = None) -> requests.PreparedRequest:
    """A GET request as `requests` sends it, or a POST of `body`; `url` is in its final form."""
    request = requests.PreparedRequest()
    request.method = "GET" if body is None else "POST"
    request.url = url
    request.headers = CaseInsensitiveDict(headers)
    if body is not None:
        request.body = body
        request.headers["Content-Length"] = str(len(body))
    return request
