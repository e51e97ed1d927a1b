"""How the embedded server is configured: its binaries, its locale, its settings."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from appview_pipeline.store.embedded import binaries, configuration
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.support.embedded_server import (
    DEBIAN,
    User,
    attach,
    kill,
    needs_debian,
    postmaster_pid,
    processes,
)
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@needs_debian
def test_binaries_of_the_system(state: Path) -> None:
    user = User(state, binaries=DEBIAN)
    answer = user.answer()
    assert answer["version"] == binaries.version_in(DEBIAN)
    kill(postmaster_pid(state))
    user.ensure()
    user.end()
    wait_for(lambda: not processes(state))
    # Without a setting, the binaries that fit the data directory are found.
    with attach(state) as pg:
        assert pg.version == answer["version"]
        check_texts(pg)


def test_texts_sort_by_their_bytes_and_are_known_as_unicode(server: EmbeddedPostgres) -> None:
    check_texts(server)


def check_texts(pg: EmbeddedPostgres) -> None:
    words = ["Z", "a", "é", "z", "П", "😀", "�", "a b", "a-b", "aB"]
    ordered = "SELECT array_agg(word ORDER BY word) FROM unnest(%s::text[]) AS word"
    with (
        closing(psycopg2.connect(host=str(pg.socket_dir), port=5432, user="postgres", dbname="appview")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(ordered, (words,))
        assert cursor.fetchone() == (sorted(words, key=str.encode),)
        cursor.execute("SELECT lower('ÀПР'), 'é' ~ '^\\w$'")
        assert cursor.fetchone() == ("àпр", True)
        # Of "C" character classes pg_trgm would make no trigrams here, and every search in such texts would miss.
        cursor.execute("CREATE EXTENSION pg_trgm")
        cursor.execute("SELECT similarity('Привет мир', 'привет')")
        assert cursor.fetchall()[0][0] > 0.4


def test_settings_follow_the_machine() -> None:
    small = configuration.server_settings(1 << 30, 10 << 30, ephemeral=False, lz4=False)
    large = configuration.server_settings(64 << 30, 2 << 40, ephemeral=False, lz4=True)
    assert (small["shared_buffers"], large["shared_buffers"]) == ("256MB", "8192MB")
    assert (small["max_wal_size"], large["max_wal_size"]) == ("1024MB", "16384MB")
    assert (small["wal_buffers"], large["wal_buffers"]) == ("4MB", "64MB")
    assert (small["work_mem"], large["work_mem"]) == ("4MB", "32MB")
    assert (small["wal_compression"], large["wal_compression"]) == ("off", "lz4")
    assert 0 < configuration.usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
