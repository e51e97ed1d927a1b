"""A replay ends in the same tables, however it is cut into batches, interrupted, repeated or shuffled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libipld
import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.corpus import read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.relay import frame_seq
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import (
    Dump,
    Fresh,
    assert_equal,
    dump,
    one,
    replayed,
    replayed_frames,
    rows,
)

few = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Corpus:
    """Frames, the file that holds them, and the tables that one batch makes of them."""

    path: Path
    frames: list[bytes]
    tables: Dump


@pytest.fixture(scope="module")
def busy(fresh: Fresh, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """600 frames of a few accounts in which everything happens often."""
    return corpus(fresh, list(busy_frames(600)), tmp_path_factory.mktemp("busy"))


@pytest.fixture(scope="module")
def real(fresh: Fresh, conformance: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """150 contiguous frames of the real relay."""
    frames = list(read_corpus(conformance / "frames/jetstream-corpus/frames.bin.zst"))
    return corpus(fresh, frames, tmp_path_factory.mktemp("real"))


def corpus(fresh: Fresh, frames: list[bytes], folder: Path) -> Corpus:
    path = folder / "corpus.frames"
    write_corpus(path, frames)
    with fresh() as database:
        summary = replayed(database, path, len(frames))
        assert (summary.frames, summary.rejected) == (len(frames), 0)
        return Corpus(path, frames, dump(database.url))


def test_the_busy_corpus_has_everything_in_it(fresh: Fresh, busy: Corpus) -> None:
    """Else the tests of this file would prove less than they say."""
    with fresh() as database:
        replayed(database, busy.path, 600)
        ops = one(database.url, "SELECT ops FROM pipeline.batch")
        not_made = {nsid for nsid in COLLECTIONS if nsid not in ops and nsid.startswith("app.bsky")}
        assert not_made == {"app.bsky.actor.contentVisibilityDeclaration"}
        for action in ("create", "update", "delete"):
            assert sum(of.get(action, 0) for of in ops.values()) > 20
        assert len(busy.tables["bsky.duplicate_record"]) > 50
        assert one(database.url, "SELECT count(*) FROM pipeline.ignored_collection") > 2
        assert one(database.url, "SELECT count(*) FROM bsky.notification") > 50
        kinds: Counter[str] = Counter()
        for frame in busy.frames:
            kinds[libipld.decode_dag_cbor_multi(frame)[0]["t"]] += 1
        assert kinds.keys() == {"#commit", "#account", "#identity", "#sync"}, kinds


def test_replayed_again_nothing_changes(fresh: Fresh, busy: Corpus, real: Corpus) -> None:
    with fresh() as database:
        for one_corpus, size in ((busy, 64), (busy, 64), (busy, 600), (busy, 17)):
            replayed(database, one_corpus.path, size)
            assert_equal(dump(database.url), busy.tables)
    with fresh() as database:
        for size in (150, 40, 1):
            replayed(database, real.path, size)
            assert_equal(dump(database.url), real.tables)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow), 3, 13, 149])
def test_real_frames_in_any_batch_size(fresh: Fresh, real: Corpus, size: int) -> None:
    with fresh() as database:
        replayed(database, real.path, size)
        assert_equal(dump(database.url), real.tables)


@few
@example(size=599)
@given(size=st.integers(8, 600))
def test_busy_frames_in_any_batch_size(fresh: Fresh, busy: Corpus, size: int) -> None:
    with fresh() as database:
        replayed(database, busy.path, size)
        assert_equal(dump(database.url), busy.tables)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_busy_frames_in_small_batches(fresh: Fresh, busy: Corpus, size: int) -> None:
    with fresh() as database:
        replayed(database, busy.path, size)
        assert_equal(dump(database.url), busy.tables)


@pytest.mark.parametrize("seed", [11, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(20, 30))])
def test_other_worlds_a_frame_at_a_time(fresh: Fresh, tmp_path: Path, seed: int) -> None:
    frames = list(busy_frames(200, seed))
    with fresh() as at_once, fresh() as single, fresh() as some:
        replayed_frames(at_once, tmp_path, frames)
        replayed_frames(single, tmp_path, frames, 1)
        replayed_frames(some, tmp_path, frames, 37)
        assert_equal(dump(single.url), dump(at_once.url))
        assert_equal(dump(some.url), dump(at_once.url))


@few
@given(seed=st.integers(0, 2**32), size=st.sampled_from((20, 90, 1_000)))
def test_frames_delivered_twice(fresh: Fresh, busy: Corpus, tmp_path: Path, seed: int, size: int) -> None:
    """Right after one another, a stretch later, and all from some point on."""
    rng = random.Random(seed)
    frames: list[bytes] = []
    for frame in busy.frames:
        frames.append(frame)
        if rng.random() < 0.2:
            frames.append(frame)
        if rng.random() < 0.02:
            frames += frames[-rng.randrange(1, 60) :]
    with fresh() as database:
        replayed_frames(database, tmp_path, frames, size)
        assert_equal(dump(database.url), busy.tables)


def repository_of(frame: bytes) -> str:
    body = libipld.decode_dag_cbor_multi(frame)[1]
    return body.get("repo") or body["did"]


def interleaved(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """The same frames, each repository's in their order, the repositories in any."""
    queues: dict[str, list[bytes]] = defaultdict(list)
    for frame in frames:
        queues[repository_of(frame)].append(frame)
    for queue in queues.values():
        queue.reverse()
    shuffled = []
    while queues:
        did = rng.choice(sorted(queues))
        shuffled += [queues[did].pop() for _ in range(min(len(queues[did]), rng.randrange(1, 9)))]
        if not queues[did]:
            del queues[did]
    return shuffled


@few
@given(seed=st.integers(0, 2**32), size=st.sampled_from((25, 100, 600)))
def test_repositories_that_overtake_one_another(
    fresh: Fresh, busy: Corpus, tmp_path: Path, seed: int, size: int
) -> None:
    frames = interleaved(busy.frames, random.Random(seed))
    assert frames != busy.frames and sorted(frames) == sorted(busy.frames)
    with fresh() as database:
        replayed_frames(database, tmp_path, frames, size)
        assert_equal(dump(database.url), busy.tables)


@few
@given(prefix=st.integers(1, 599), size=st.sampled_from((30, 150, 600)))
def test_a_prefix_and_then_all(fresh: Fresh, busy: Corpus, tmp_path: Path, prefix: int, size: int) -> None:
    with fresh() as database:
        replayed_frames(database, tmp_path, busy.frames[:prefix], size)
        summary = replayed(database, busy.path, size)
        assert summary.stale > 0 or prefix < size
        assert_equal(dump(database.url), busy.tables)


def test_a_replay_moves_no_cursor(fresh: Fresh, busy: Corpus) -> None:
    with fresh() as database:
        rows(database.url, "INSERT INTO pipeline.cursor (relay, seq) VALUES ('wss://relay.example', 5)")
        replayed(database, busy.path, 100)
        assert rows(database.url, "SELECT relay, seq FROM pipeline.cursor") == [("wss://relay.example", 5)]


# ---- killed


class Progress:
    """Watches from outside how far a replay has come."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url.replace("+psycopg2", ""))
        self._connection.autocommit = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def applied(self) -> int:
        """Grows whenever something new is applied."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(sum(seq), 0) FROM pipeline.repo")
            ((found,),) = cursor.fetchall()
        return int(found)


@contextmanager
def replaying(url: str, path: Path, batch_size: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "appview_pipeline.cli", "replay", str(path), "--batch-size", str(batch_size)],
        cwd=CHECKOUT,
        env={**os.environ, "DATABASE_URL": url, "APPVIEW_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def killed_while_applying(database: Database, path: Path, batch_size: int, delay: float) -> bool:
    """Starts a replay from the file's beginning and kills it `delay` seconds after it first wrote something new. False
    when it had come to its end by itself."""
    with replaying(database.url, path, batch_size) as process, Progress(database.url) as progress:
        before = progress.applied()
        deadline = time.monotonic() + 60
        while progress.applied() == before and process.poll() is None:
            assert time.monotonic() < deadline, "the replay does not begin"
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.thorough)])
def test_killed_at_random_moments(fresh: Fresh, tmp_path: Path, kills: int) -> None:
    frames = list(busy_frames(360 * kills, seed=5))
    path = tmp_path / "long.frames"
    write_corpus(path, frames)
    rng = random.Random(kills)
    with fresh() as whole, fresh() as database:
        replayed(whole, path, 500)
        want = dump(whole.url)
        hits = 0
        behind = []
        for _ in range(kills):
            hits += killed_while_applying(database, path, 10, rng.uniform(0, 0.4))
            behind.append(one(database.url, "SELECT coalesce(max(seq), 0) FROM pipeline.repo"))
        print(f"{hits} of {kills} kills hit a replay that was applying, after events {behind}")
        assert hits * 2 >= kills
        # They interrupted real work: every one of them left something undone, and got further than the one before.
        assert behind == sorted(behind) and len(set(behind)) * 2 > kills
        assert behind[0] < frame_seq(frames[-1])
        with replaying(database.url, path, 10) as process:
            assert process.stdout is not None
            summary = json.loads(process.stdout.read().splitlines()[-1])
            assert process.wait() == 0
        assert summary["frames"] == len(frames) and summary["rejected"] == 0
        assert_equal(dump(database.url), want)
        assert rows(database.url, "SELECT * FROM pipeline.cursor") == []


def test_killed_postgres_sessions_lose_and_double_nothing(fresh: Fresh, busy: Corpus) -> None:
    """What the kernel does to a client, an administrator does to its session: the replay goes on by itself."""
    with fresh() as database, Progress(database.url) as progress, replaying(database.url, busy.path, 5) as process:
        cut = 0
        seen = progress.applied()
        while process.poll() is None and cut < 6:
            time.sleep(0.01)
            if (now := progress.applied()) != seen:
                seen = now
                cut += one(
                    database.url,
                    "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'appview-pipeline writer' AND datname = current_database()) t",
                )
        assert process.wait(60) == 0
        assert cut >= 3
        assert_equal(dump(database.url), busy.tables)


def test_two_replays_at_once(fresh: Fresh, busy: Corpus, tmp_path: Path) -> None:
    """Of the same file: they meet at the same rows, and neither loses to the other."""
    with fresh() as database:
        with (
            replaying(database.url, busy.path, 20) as first,
            replaying(database.url, busy.path, 33) as second,
        ):
            assert first.wait(60) == 0 and second.wait(60) == 0
        assert_equal(dump(database.url), busy.tables)


def test_what_is_left_of_a_killed_replay_is_whole_batches(fresh: Fresh, busy: Corpus) -> None:
    with fresh() as database, fresh() as prefix:
        assert killed_while_applying(database, busy.path, 25, 0.1)
        done = one(database.url, "SELECT sum(frames) FROM pipeline.batch")
        assert done % 25 == 0 and 0 < done < 600
        replayed_frames(prefix, busy.path.parent, busy.frames[:done], 600)
        assert_equal(dump(database.url), dump(prefix.url))
