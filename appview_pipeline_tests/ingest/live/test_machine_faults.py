"""What machines do to the consumer's database: afterwards the tables are those of a stream without any trouble."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appview_pipeline.leases.leased_process import EXIT_LOCK_LOST
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database, open_database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.consumers import Consumer, Start, cursor, without_cursor
from appview_pipeline_tests.support.durable_server import DurableServer, durable_server
from appview_pipeline_tests.support.tables import Fresh, assert_equal, replayed_frames
from appview_pipeline_tests.support.waiting import wait_for

FRAMES = 2_400
DISK = 700_000_000
SETTINGS = "shared_buffers = '16MB'\nmax_wal_size = '64MB'\nmin_wal_size = '32MB'\n"


@pytest.mark.slow  # about 25 s
def test_postgres_restarted_crashed_and_without_room_nothing_is_lost_or_doubled(
    fresh: Fresh, start: Start, tmp_path: Path
) -> None:
    frames = list(busy_frames(FRAMES))
    with durable_server(DISK, SETTINGS) as server, fresh() as want, Relay(frames[:400]) as relay:
        replayed_frames(want, tmp_path, frames)
        with closing(open_database(load({"APPVIEW_DATABASE_URL": server.url()}), migrate=True)) as database:
            run = Run(server, lambda: start(server.url(), relay.url, APPVIEW_BATCH_EVENTS="50"))

            def reach(seq: int) -> None:
                wait_for(
                    lambda: run.keep() and server.is_ready() and (cursor(database, relay.url) or 0) >= seq,
                    explain=run.said,
                )

            reach(1)
            server.restart()
            relay.publish(frames[400:800])
            reach(401)
            server.crash()
            relay.publish(frames[800:1_200])
            if server.disk is not None:
                reach(801)
                server.fill()
            relay.publish(frames[1_200:])
            if server.disk is not None:
                wait_for(lambda: run.keep() and "No space left on device" in server.said(), explain=run.said)
                time.sleep(2.0)  # it stays full for a while
                server.drain()
            reach(FRAMES)
            assert run.consumer.end() < 10 and run.consumer.code() == 0
            assert run.codes <= {EXIT_LOCK_LOST}, run.said()
            assert_equal(comparable(database), comparable(want))


def comparable(database: Database) -> dict[str, list[str]]:
    """The tables, but for what says when the database was made."""
    return {table: lines for table, lines in without_cursor(database).items() if table != "pipeline.label_feed"}


class Run:
    """A consumer and its database, each started again when it ends, as a tick and a restart policy do. `codes`: with
    which the consumers ended by themselves."""

    def __init__(self, server: DurableServer, start: Callable[[], Consumer]) -> None:
        self._server, self._start = server, start
        self.consumer = start()
        self.codes: set[int] = set()
        self._said = ""

    def keep(self) -> bool:
        self._server.keep_running()
        if self.consumer.process.poll() is not None:
            self.codes.add(self.consumer.code())
            self._said += self.consumer.said
            self.consumer = self._start()
        return True

    def said(self) -> str:
        return self._said + self.consumer.said
