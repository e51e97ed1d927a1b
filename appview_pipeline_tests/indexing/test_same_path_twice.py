"""A commit may name a path several times: the last operation is the outcome, as if each had been a commit."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import libipld
import pytest

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.commit import prove, read_commit
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.protocol.syntax import tid_before, tid_from_micros
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support import states, tables
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import START, WHEN, Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.tables import Fresh, one, replayed_frames, rows


def state(database: Database) -> states.State:
    with connect(database.url) as connection:
        found = states.dump(connection)
    for row in found["rows"].get("post", ()):
        del row["rev"]  # it is another one where each operation is a commit
    return found


def _write(path: str, record: dict[str, Any], action: str) -> Write:
    return Write(action, path, record)


class Two:
    """Two accounts; what ben has, ann's records are about."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.ann, self.ben = Person(self.stream, "ann"), Person(self.stream, "ben")
        target = post("target", "hello")
        self.frames = [self.ben.commit(target), self.ann.commit(post("first", "ann's own"))]
        block = self.ben.repository.get(target.path)
        assert block is not None
        self.target = {"uri": self.ben.uri(target.path), "cid": cid.to_text(block[0])}
        self.wordings = 0

    def writes(self) -> list[Callable[[str], Write]]:
        """A write of each kind of record, its action to be given; never the same record twice."""
        self.wordings += 1
        text, dated = f"wording {self.wordings}", {"createdAt": WHEN, "wording": self.wordings}
        quote = {"$type": "app.bsky.embed.record", "record": self.target}
        own = self.ann.uri("app.bsky.feed.post/first")
        records: dict[str, dict[str, Any]] = {
            "app.bsky.feed.post/reply": {"text": text, "reply": {"root": self.target, "parent": self.target}},
            "app.bsky.feed.post/quote": {"text": text, "embed": quote},
            "app.bsky.feed.like/like": {"subject": self.target},
            "app.bsky.feed.repost/repost": {"subject": self.target},
            "app.bsky.graph.follow/follow": {"subject": self.ben.did},
            "app.bsky.graph.block/block": {"subject": self.ben.did},
            "app.bsky.graph.list/list": {"name": text, "purpose": "app.bsky.graph.defs#curatelist"},
            "app.bsky.graph.listitem/item": {
                "list": self.ann.uri("app.bsky.graph.list/list"),
                "subject": self.ben.did,
            },
            "app.bsky.actor.profile/self": {"displayName": text},
            "app.bsky.feed.threadgate/first": {"post": own, "allow": []},
            "app.bsky.feed.postgate/first": {"post": own},
            "app.bsky.feed.generator/feed": {"did": self.ben.did, "displayName": text},
        }
        return [
            partial(_write, path, {"$type": path.split("/")[0], **dated, **record}) for path, record in records.items()
        ]


def test_the_outcome_is_the_last_operation(database: Database, tmp_path: Path) -> None:
    """The right values, by hand: an edit as clients write it, and two records that come and go at once."""
    two = Two()
    ann, like = two.ann, "app.bsky.feed.like/k"
    frames = [
        *two.frames,
        ann.commit(post("edit", "first wording")),
        ann.commit(delete("app.bsky.feed.post/edit"), post("edit", "second wording")),
        ann.commit(create(like, {"subject": two.target, "createdAt": WHEN}), delete(like)),
        ann.commit(post("gone", "never seen"), delete("app.bsky.feed.post/gone")),
        ann.commit(post("words", "one"), update("app.bsky.feed.post/words", {"text": "two", "createdAt": WHEN})),
    ]
    replayed_frames(database, tmp_path, frames, 1)
    replayed_frames(database, tmp_path, frames)
    url = database.url
    assert rows(url, 'SELECT text FROM bsky.post WHERE creator = %s ORDER BY text COLLATE "C"', ann.did) == [
        ("ann's own",),
        ("second wording",),
        ("two",),
    ]
    assert one(url, 'SELECT count(*) FROM bsky.feed_item WHERE "originatorDid" = %s', ann.did) == 3
    assert one(url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', ann.did) == 3
    assert one(url, 'SELECT coalesce(sum("likeCount"), 0) FROM bsky.post_agg') == 0
    for table in ("bsky.like", "bsky.notification", "pipeline.dead_letter", "pipeline.gap"):
        assert one(url, f"SELECT count(*) FROM {table}") == 0, table


@pytest.mark.parametrize("seed", range(2))
def test_as_if_each_operation_were_a_commit(fresh: Fresh, tmp_path: Path, seed: int) -> None:
    """All kinds of records, written up to four times in a commit, whatever there was before it."""
    rng = random.Random(seed)
    alone, together = Two(), Two()
    moment = iso(START + 1_000_000_000)
    exists: set[str] = set()
    for number in range(6):
        acts = [write for _ in range(2) for write in alone.writes() if rng.random() < 0.5]
        together.wordings = alone.wordings
        writes: list[Write] = []
        for act in acts:
            path = act("create").path
            if path in exists and rng.random() < 0.6:
                writes.append(delete(path))
                exists.remove(path)
            else:
                writes.append(act("update" if path in exists else "create"))
                exists.add(path)
        together.frames.append(together.ann.commit(*writes, time=moment))
        alone.frames += [alone.ann.commit(write, time=moment) for write in writes]
        # So that the commits that follow are as late in either stream.
        together.stream.moment = alone.stream.moment = max(alone.stream.moment, (number + 1) * 100)
    with fresh() as one_by_one:
        replayed_frames(one_by_one, tmp_path, alone.frames, 1)
        want = state(one_by_one)
        assert want["rejected"] == [] and want["records"]
    dumps = []
    for size in (1, 3, 1_000):
        with fresh() as database:
            replayed_frames(database, tmp_path, together.frames, size)
            assert not (found := states.differences(state(database), want)), "\n".join(found)
            dumps.append(tables.dump(database.url))
            replayed_frames(database, tmp_path, together.frames, 2)
            dumps.append(tables.dump(database.url))
    for dump in dumps[1:]:
        tables.assert_equal(dump, dumps[0])


def test_a_verification_that_is_written_again_notifies_of_both(fresh: Fresh, tmp_path: Path) -> None:
    """Every operation counts for what notifies by its history."""
    path = "app.bsky.graph.verification/v"
    for size in (1, 10):
        two = Two()
        verify = {"subject": two.ben.did, "handle": "ben.test", "displayName": "Ben", "createdAt": WHEN}
        frames = [*two.frames, two.ann.commit(create(path, verify))]
        frames.append(two.ann.commit(delete(path), create(path, {**verify, "displayName": "Benjamin"})))
        with fresh() as database:
            replayed_frames(database, tmp_path, frames, size)
            found = rows(database.url, "SELECT reason FROM bsky.notification ORDER BY reason")
            assert found == [("unverified",), ("verified",)]
            assert rows(database.url, 'SELECT "displayName" FROM bsky.verification') == [("Benjamin",)]


def operations(person: Person, frame: bytes, wanted: tuple[str, ...] = ("app.bsky.feed.post",)) -> Any:
    event = decode_frame(frame)
    assert isinstance(event, Commit)
    return event, read_commit(event, START + 10**12, wanted)


def test_a_commit_brings_only_the_outcome_along(database: Database, tmp_path: Path) -> None:
    """The block of a record that was replaced may be missing, and what was wrong with it does not matter any more."""
    ann = Person(Stream(), "ann")
    good = Write("create", "app.bsky.feed.post/a", {"$type": "app.bsky.feed.post", "text": "good", "createdAt": WHEN})
    assert good.record is not None
    block = bytes(libipld.encode_dag_cbor(good.record))
    frames = [
        ann.commit_blocks(("create", "app.bsky.feed.post/a", b"\xa0"), ("update", "app.bsky.feed.post/a", block)),
        ann.commit_blocks(("create", "app.bsky.feed.post/b", block), ("update", "app.bsky.feed.post/b", b"\xa0")),
        ann.commit_blocks(("create", "app.bsky.feed.post/c", b"\xff"), ("delete", "app.bsky.feed.post/c", None)),
    ]
    replayed_frames(database, tmp_path, frames)
    assert rows(database.url, "SELECT path, kind FROM pipeline.dead_letter") == [("app.bsky.feed.post/b", "lexicon")]
    assert one(database.url, "SELECT text FROM bsky.post WHERE right(uri, 2) = '/a'") == "good"
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE right(uri, 2) = '/c'") == 0


def test_the_sum_of_the_operations_is_proven() -> None:
    ann = Person(Stream(), "ann")
    path = "app.bsky.feed.post/a"
    ann.commit(post("z", "beside"))
    record = {"$type": "app.bsky.feed.post", "text": "one", "createdAt": WHEN}
    frames = [
        ann.commit(create(path, record), delete(path)),
        ann.commit(create(path, record), update(path, {**record, "text": "two"})),
        ann.commit(delete(path), create(path, {**record, "text": "three"})),
        ann.commit(delete(path), create(path, {**record, "text": "three"})),
        ann.commit(update(path, record), delete(path), create(path, {**record, "text": "four"}), post("y", "beside")),
        ann.commit(delete(path), create(path, record), delete(path)),
    ]
    for frame in frames:
        assert prove(*operations(ann, frame))


def test_revs_within_a_commit() -> None:
    rev = tid_from_micros(START, 0)
    before = [tid_before(rev, steps) for steps in range(200)]
    assert before[0] == rev and before == sorted(before, reverse=True) and len(set(before)) == 200
    assert before[-1] > tid_from_micros(START - 1, 0)
    assert tid_before("2222222222223", 5) == "2222222222222"
    with pytest.raises(ValueError, match="not a TID"):
        tid_before("nothing", 1)
