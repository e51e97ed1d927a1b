"""The public network as the HTTP client sees it, in one process: all connections lead to one listener, which counts.

So a test may ask `https://example.com`, port 443, by the rules for strangers' URLs, and nothing leaves this machine.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.network.checked_sockets import BudgetSocket
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.certificates import Authority
from appview_pipeline_tests.support.http_server import Answer, HttpServer

PUBLIC_ADDRESS = "93.184.215.14"


@dataclass
class Names:
    """What host names resolve to. A function is asked anew for each look-up."""

    addresses: Mapping[str, list[str] | Callable[[], list[str]]]
    looked_up: list[str] = field(default_factory=list)

    def look_up(self, host: str, seconds: float) -> list[str]:
        host = host.rstrip(".")
        self.looked_up.append(host)
        found = self.addresses.get(host)
        if found is None:
            raise FetchError("name", f"{host} has no address", host=host)
        return found() if callable(found) else found


@dataclass
class Internet:
    """`contacted`: the addresses and ports that connections were tried to."""

    server: HttpServer
    contacted: list[tuple[str, int]]
    ca_file: Path

    def client(self, names: Names, **settings: Any) -> Client:
        chosen = Settings(**{"fetch_seconds": 5.0, **settings})
        return Client(chosen, ca_file=str(self.ca_file), hosts=Hosts(chosen, lookup=names.look_up))


def internet(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: Answer, certified: str = "example.com") -> Internet:
    """Call `__enter__` of its server. `certified`: the name in the server's certificate."""
    authority = Authority(folder)
    server = HttpServer(answer, tls=authority.server(certified))
    contacted: list[tuple[str, int]] = []

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        contacted.append(address)
        if sock.family == socket.AF_INET6:  # the listener has no IPv6 address, and this machine may have none
            raise OSError(101, "Network is unreachable")
        socket.socket.connect(sock, ("127.0.0.1", server.port))

    monkeypatch.setattr(BudgetSocket, "connect", connect)
    return Internet(server, contacted, authority.file)
