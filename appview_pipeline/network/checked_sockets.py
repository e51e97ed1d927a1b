"""Sockets that are connected to checked addresses only, and that keep to the budget of their thread's request."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import certifi

from appview_pipeline.network.budget import Budget, current
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.overdue import broken_off
from appview_pipeline.protocol.event_stream import printable

MAX_ADDRESSES = 4
"""Addresses of a host that one request tries."""


class BudgetSocket(socket.socket):
    """Waits no longer, and receives no more, than the budget of the thread's request allows."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`. Raises `FetchError`."""
        budget = current()
        self.settimeout(budget.read_left())
        try:
            count = super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise _broken(error, budget) from None
        budget.receive(count)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As `socket.sendall`. Raises `FetchError`."""
        budget = current()
        self.settimeout(budget.read_left())
        try:
            super().sendall(data, flags)
        except OSError as error:
            raise _broken(error, budget) from None


class BudgetTLSSocket(ssl.SSLSocket):
    """The same with TLS. What counts are the bytes after decryption."""

    def do_handshake(self, block: bool = False) -> None:
        """As `SSLSocket.do_handshake`, its errors included."""
        with broken_off(self, current().connect_deadline):
            super().do_handshake(block)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As `SSLSocket.recv_into`. Raises `FetchError`."""
        budget = current()
        self.settimeout(budget.read_left())
        try:
            with broken_off(self, budget.deadline):
                count = super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise _broken(error, budget) from None
        if count == 0:
            budget.left()  # perhaps it was broken off
        budget.receive(count)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As `SSLSocket.sendall`. Raises `FetchError`."""
        budget = current()
        self.settimeout(budget.read_left())
        try:
            super().sendall(data, flags)
        except OSError as error:
            raise _broken(error, budget) from None


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """What a server's certificate is checked against: `ca_file` (PEM), or else this machine's root certificates.

    They are the system's (SSL_CERT_FILE, SSL_CERT_DIR), as for the subscription. Slim images have none; there the list
    that comes with `requests` is used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is None and not _has_roots(context):
        context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.sslsocket_class = BudgetTLSSocket
    return context


def _has_roots(context: ssl.SSLContext) -> bool:
    folder = ssl.get_default_verify_paths().capath  # None if there is no such folder; its files are read when needed
    return context.cert_store_stats()["x509_ca"] > 0 or (folder is not None and any(Path(folder).iterdir()))


def connect(addresses: Sequence[str], port: int, budget: Budget) -> socket.socket:
    """A connection to the first of the addresses that accepts one. Its time-out is what is left for TLS.

    IPv6 and IPv4 take turns, and no address may use up the time of the next ones: a host is reached although one of
    its addresses, or IPv6 as a whole, is not. Raises `FetchError`.
    """
    tried = in_turns(addresses)[:MAX_ADDRESSES]
    failure: FetchError | None = None
    for number, address in enumerate(tried):
        left = budget.connect_left()
        sock = BudgetSocket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(left / (len(tried) - number))
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(budget.connect_left())
            return sock
        except OSError as error:
            sock.close()
            failure = _not_connected(error, budget, failure)
        except BaseException:
            sock.close()
            raise
    raise failure or FetchError("name", f"{budget.host} has no address", host=budget.host)


def tls_error(error: Exception, budget: Budget) -> FetchError:
    """The error for one that was raised while TLS was being set up."""
    host = budget.host
    if isinstance(error, TimeoutError) or time.monotonic() >= budget.connect_deadline:
        return budget.not_connected()
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError("tls", f"the certificate of {host} is not accepted ({error.verify_message})", host=host)
    if isinstance(error, ssl.SSLError):
        reason = printable(error.reason or str(error)).replace("_", " ").lower()
        return FetchError("tls", f"no TLS connection to {host} ({reason})", host=host)
    return FetchError("tls", f"{host} broke off while TLS was being set up", host=host)


def in_turns(addresses: Sequence[str]) -> list[str]:
    """Addresses in their order, but IPv6 and IPv4 by turns, beginning with the first one's."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    second = [address for address in addresses if (":" in address) != (":" in addresses[0])]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


def is_without_route(error: OSError) -> bool:
    """Says more about this machine (no IPv6) than about the host: what another address said is the better reason."""
    return error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


def _not_connected(error: OSError, budget: Budget, earlier: FetchError | None) -> FetchError:
    host = budget.host
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return budget.not_connected()
    if error.errno == errno.ECONNREFUSED:
        return FetchError("connection", f"{host} refuses the connection", host=host)
    if is_without_route(error):
        return earlier or FetchError("connection", f"there is no route to {host}", host=host)
    return FetchError("connection", f"no connection to {host} ({error.strerror or error})", host=host)


def _broken(error: OSError, budget: Budget) -> FetchError:
    host = budget.host
    if isinstance(error, TimeoutError) or time.monotonic() >= budget.deadline:
        return budget.silent()
    if isinstance(error, ssl.SSLError):
        reason = printable(error.reason or str(error)).replace("_", " ").lower()
        return FetchError("tls", f"the TLS connection to {host} broke ({reason})", host=host)
    return FetchError("connection", f"{host} broke the connection off ({error.strerror or error})", host=host)
