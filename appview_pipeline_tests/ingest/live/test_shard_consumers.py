"""Consumers of shards as processes: killed all along, and in changing numbers."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.consumers import Consumer, Start, cursor, until, without_cursor
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.shards import layout
from appview_pipeline_tests.support.tables import Fresh, assert_equal, dump, one, replayed_frames, rows


def shard_cursors(database: Database, relay: str) -> dict[str, int]:
    return dict(rows(database.url, "SELECT shard, seq FROM pipeline.cursor WHERE relay = %s", relay))


def reached(database: Database, relay: str, shard: str, seq: int) -> bool:
    return shard_cursors(database, relay).get(shard, 0) >= seq


def has_begun(consumer: Consumer) -> bool:
    return "Subscribing" in consumer.said


def consumers(start: Start, database: Database, relay: Relay, count: int, **more: str) -> dict[str, Consumer]:
    return {str(shard): start(database.url, relay.url, APPVIEW_SHARD=str(shard), **more) for shard in layout(count)}


def killed_at_random(
    fresh: Fresh, start: Start, tmp_path: Path, frames: Sequence[bytes], counts: Sequence[int], kills: int, seed: int
) -> None:
    """Consumers of `counts` shards after one another, killed all along; the tables are those of a replay."""
    rng = random.Random(seed)
    last = len(frames)
    damaged = [b"\x00damaged", b"\xa2atg#commitbop\x01\xff"]
    with fresh() as want, fresh() as database, Relay(frames[: last // 4]) as relay:
        relay.faults.damage = {10: [damaged[0], frames[9]], last // 2: [damaged[1], frames[last // 2 - 1]]}
        replayed_frames(want, tmp_path, [*frames, *damaged])
        killed = 0
        for number, count in enumerate(counts):
            running = consumers(start, database, relay, count, APPVIEW_BATCH_EVENTS="5")
            upto = last * (number + 1) // len(counts)
            relay.publish(frames[max(last // 4, last * number // len(counts)) : upto])
            for _ in range(kills):
                shard = rng.choice(sorted(running))
                before = shard_cursors(database, relay.url).get(shard, 0)
                until(partial(reached, database, relay.url, shard, min(before + 1, upto)), running[shard])
                time.sleep(rng.random() * 0.1)
                killed += shard_cursors(database, relay.url)[shard] < upto
                running[shard].end(signal.SIGKILL)
                running[shard] = start(
                    database.url, relay.url, APPVIEW_SHARD=shard, APPVIEW_BATCH_EVENTS=str(rng.choice((3, 7, 50)))
                )
            for shard, consumer in running.items():
                until(partial(reached, database, relay.url, shard, upto), consumer)
            assert len(shard_cursors(database, relay.url)) == count
            for consumer in running.values():
                until(partial(has_begun, consumer), consumer)
                assert consumer.end() < 10 and consumer.code() == 0
                assert "Traceback" not in consumer.said
        assert killed, "some were killed while they had work to do"
        got, wanted = without_cursor(database), dump(want.url)
        # A reply evaluated before the newest gate came still depends on what an older gate asked for: only work.
        more, needed = (set(tables.pop("pipeline.dependency", ())) for tables in (got, wanted))
        assert needed <= more
        assert_equal(got, wanted)
        assert one(database.url, "SELECT sum(rejected) FROM pipeline.batch") >= len(damaged)
        # Frames that are nobody's own work are counted by one shard alone.
        assert (
            one(database.url, "SELECT count(*) FROM pipeline.batch WHERE rejected > 0 AND shard NOT LIKE '0/%%'") == 0
        )


def test_two_consumers_killed_and_another_number_of_them(fresh: Fresh, start: Start, tmp_path: Path) -> None:
    killed_at_random(fresh, start, tmp_path, list(busy_frames(400)), (2, 1), 2, seed=1)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_consumers_killed_all_along(fresh: Fresh, start: Start, tmp_path: Path, seed: int) -> None:
    killed_at_random(fresh, start, tmp_path, list(busy_frames(1_500, seed)), (1, 2, 4, 3, 1), 6, seed)


@pytest.mark.slow
def test_a_consumer_of_another_layout_is_refused_in_a_sentence(fresh: Fresh, start: Start) -> None:
    with fresh() as database, Relay([Person(Stream(), "ann").commit(post("a", "x"))]) as relay:
        first = start(database.url, relay.url)
        until(lambda: cursor(database, relay.url) == 1, first)
        second = start(database.url, relay.url, APPVIEW_SHARD="1/2")
        assert second.code() == 4
        assert second.lines[-1].startswith(
            f"Consumers of another layout (APPVIEW_SHARD=i/1) are at work on {relay.url}:"
        )
        assert len(relay.cursors) == 1, "it never subscribed"
        assert first.end() < 10
