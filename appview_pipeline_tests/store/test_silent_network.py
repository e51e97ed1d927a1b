"""A network that swallows packets and closes no connection: the kernel finds out, within about half a minute."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

import pytest

from appview_pipeline.store import postgres
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.support.pooler import Pooler

HALF_A_MINUTE = 30


@pytest.mark.skipif(sys.platform != "linux", reason="the options of sockets are Linux's")
def test_connections_to_the_database_are_given_up_when_nothing_comes_back(server: EmbeddedPostgres) -> None:
    with (
        Pooler(str(server.socket_dir), "session", "postgres") as pooler,
        closing(postgres.connect(pooler.url())) as connection,
        socket.socket(fileno=connection.fileno()) as wire,
    ):
        tcp = socket.IPPROTO_TCP
        # Sent and not acknowledged: a statement that is swallowed on its way.
        assert wire.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == HALF_A_MINUTE * 1_000
        # Nothing to send: a statement is at work, and its answer is swallowed.
        assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, between, probes = (
            wire.getsockopt(tcp, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + between * probes <= HALF_A_MINUTE
        wire.detach()
