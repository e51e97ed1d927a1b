"""A broken chain of commits is a gap, however the commits are cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, delete, did_of, post, rev
from appview_pipeline_tests.support.tables import Fresh, all_gaps


def cuts(frames: Sequence[bytes]) -> Iterator[list[list[bytes]]]:
    """Ways to cut frames into batches: all at once, one by one, and some in between."""
    ways = 2 ** (len(frames) - 1)
    for bits in range(ways) if ways <= 8 else (0, ways - 1, *range(2, ways - 1, ways // 6)):
        batches = [[frames[0]]]
        for number, frame in enumerate(frames[1:]):
            if bits >> number & 1:
                batches.append([frame])
            else:
                batches[-1].append(frame)
        yield batches


def gap_story(name: str) -> tuple[list[bytes], list[tuple[str, str, str]]]:
    """Frames that arrive, and the gaps that they leave: kind and the moments of the revs around it."""
    stream = Stream()
    ann = Person(stream, "ann")
    a = ann.commit(post("a", "a"))
    b = ann.commit(post("b", "b"))
    if name == "chain":
        return [a, b, ann.commit(post("c", "c")), ann.sync()], []
    if name == "lost":
        return [a, ann.commit(post("c", "c")), ann.commit(post("d", "d"))], [("chain", rev(1), rev(3))]
    if name == "lost twice":
        c, d, e = (ann.commit(post(key, key)) for key in "cde")
        return [a, c, e], [("chain", rev(1), rev(3)), ("chain", rev(3), rev(5))]
    if name == "same sync":
        return [a, b, ann.sync(), ann.sync(), ann.commit(post("c", "c"))], []
    if name == "other tree":
        # The same revs and the same `since`, but another tree than the one that this commit says it changes.
        return [a, ann.commit(post("c", "c"), since=rev(1))], [("chain", rev(1), rev(3))]
    if name == "reset":
        ann.commit(post("c", "c"))
        return [a, b, ann.sync(), ann.commit(post("d", "d"))], [("sync", rev(2), rev(3))]
    if name == "reset twice":
        ann.commit(post("c", "c"))
        first = ann.sync()
        ann.commit(post("d", "d"))
        return [a, b, first, ann.sync()], [("sync", rev(2), rev(3)), ("sync", rev(3), rev(5))]
    if name == "late":
        c, d = ann.commit(post("c", "c")), ann.commit(post("d", "d"))
        return [a, b, c, d, a, c], []
    if name == "anew":
        # The account has begun its repository anew: nothing else is in it.
        ann.commit(delete("app.bsky.feed.post/a"), delete("app.bsky.feed.post/b"))
        return [a, b, ann.commit(post("c", "c"), since=None, prevData=None)], [("chain", rev(2), rev(4))]
    assert name == "legacy"
    c = ann.commit(post("c", "c"), since=None)
    d = ann.commit(post("d", "d"), prevData=None)
    return [a, b, c, d], []


@pytest.mark.parametrize(
    "name", ["chain", "lost", "lost twice", "same sync", "other tree", "reset", "reset twice", "late", "anew", "legacy"]
)
def test_a_broken_chain_is_a_gap_however_it_is_cut_into_batches(fresh: Fresh, name: str) -> None:
    frames, want = gap_story(name)
    did = did_of("ann")
    for batches in cuts(frames):
        with fresh() as database:
            for batch in batches:
                index(database, *batch)
            assert all_gaps(database) == [(kind, did, after, until) for kind, after, until in want], [
                len(batch) for batch in batches
            ]
            for batch in batches:  # found again, it is the same row
                index(database, *batch)
            assert len(all_gaps(database)) == len(want)
