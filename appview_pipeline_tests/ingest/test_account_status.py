"""The status of an account, whatever upstream sends."""

from __future__ import annotations

from typing import Any

import pytest

from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.support.frames import START, Person, Stream, post
from appview_pipeline_tests.support.replays import Replay
from appview_pipeline_tests.support.tables import one, rows

LATER = iso(START + 3_600_000_000)
"""A time after all commits of these tests."""


@pytest.mark.parametrize("status", ["deactivated", "suspended", "takendown", "deleted"])
def test_a_status_that_readers_know_is_kept(replay: Replay, status: str) -> None:
    ann = Person(Stream(), "ann")
    database = replay(ann.commit(post("a", "x")), ann.stream.account(ann.did, active=False, status=status))
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') == status


@pytest.mark.parametrize(
    "status", ["throttled", "desynchronized", "", "Suspended", "suspended ", "x" * 5_000, "\0", None, 5]
)
@pytest.mark.parametrize("is_known", [True, False], ids=["seen before", "seen after"])
def test_no_other_status_reaches_readers(replay: Replay, status: Any, is_known: bool) -> None:
    """Whether the account is known before or not; active again, it has none."""
    stream = Stream()
    ann = Person(stream, "ann")
    account = stream.frame("#account", {"did": ann.did, "active": False, "status": status, "time": LATER})
    frames = [ann.commit(post("a", "x")), account] if is_known else [account, ann.commit(post("a", "x"))]
    database = replay(*frames, batch_size=1)
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') == "deactivated"
    sent = status.replace("\0", "")[:1_024] if isinstance(status, str) else None
    assert rows(database.url, "SELECT active, status FROM pipeline.repo") == [(False, sent)]
    active = {"did": ann.did, "active": True, "status": "throttled", "time": LATER}
    database = replay(stream.frame("#account", active))
    assert one(database.url, 'SELECT "upstreamStatus" FROM bsky.actor') is None
