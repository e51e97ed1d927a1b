"""One labeler's stream: what it gives to be decoded, and what it concludes from how its subscription is."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.labels.label_frame import LabelFrame
from appview_pipeline.labels.stream import Stream
from appview_pipeline.network.notices import Notice
from appview_pipeline.network.subscription import Subscription, SubscriptionStatus
from appview_pipeline.store.labelers import LabelerIdentity
from appview_pipeline_tests.support.label_rows import label_row

LABELER = "did:plc:labelerrrrrrrrrrrrrrrrrr"
SERVER = "wss://labels.example"


@dataclass
class Scripted:
    """A subscription that has received what the test says."""

    frames: list[bytes] = field(default_factory=list)
    noticed: list[Notice] = field(default_factory=list)
    status: SubscriptionStatus = field(default_factory=lambda: SubscriptionStatus(state="connected", connected=True))
    stopped: bool = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True

    def take(self, limit: int, timeout: float) -> list[bytes]:
        taken, self.frames = self.frames[:limit], self.frames[limit:]
        return taken

    def notices(self) -> list[Notice]:
        taken, self.noticed = self.noticed, []
        return taken


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def stream(scripted: Scripted) -> Stream:
    made = Stream(LABELER, lambda address, cursor: cast(Subscription, scripted))
    made.describe(identity())
    made.open(SERVER, 5)
    made.observe(0.0)
    made.connected_at = time.time() - 100
    return made


def identity(endpoint: str = "https://labels.example", key: str = "did:key:z1") -> LabelerIdentity:
    return LabelerIdentity(LABELER, "found", endpoint, key, None, 1.0, None)


def decoded(stream: Stream, seq: int | None, valid: int = 1, rejected: int = 0, cts_micros: int = 0) -> LabelFrame:
    assert stream.position is not None
    rows = [label_row(LABELER, LABELER, f"v{number}")._replace(cts_micros=cts_micros) for number in range(valid)]
    letters = [DeadLetter("label-signature", "forged", seq, LABELER, None, b"")] * rejected
    return LabelFrame(stream.position, seq, rows, letters)


def test_a_limit_of_frames_and_of_bytes(stream: Stream, scripted: Scripted) -> None:
    scripted.frames = [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 100]
    assert stream.take(4, 25) == [b"a" * 10, b"b" * 10]
    assert stream.take(1, 1_000) == [b"c" * 10]
    assert stream.take(1, 5) == [b"d" * 100], "one frame, whatever its size"
    assert stream.take(1, 5) == []


def test_what_is_given_back_comes_first(stream: Stream, scripted: Scripted) -> None:
    scripted.frames = [b"a", b"b", b"c"]
    taken = stream.take(2, 100)
    stream.give_back(taken[1:])
    assert stream.take(2, 100) == [b"b"] and stream.take(2, 100) == [b"c"]


def test_nothing_is_taken_while_the_key_is_in_doubt(stream: Stream, scripted: Scripted) -> None:
    scripted.frames = [b"a"]
    stream.doubt = Future[Any]()
    assert stream.take(2, 100) == [] and stream.is_held
    stream.doubt = None
    stream.hold("nobody answers", time.monotonic())
    assert stream.take(2, 100) == []
    stream.observe(time.monotonic())
    assert (stream.state, stream.reason, stream.is_caught_up) == ("waiting", "nobody answers", False)
    stream.describe(identity(key="did:key:z2"))
    assert stream.take(2, 100) == [b"a"], "another key is known"


def test_a_gap_is_noted_before_what_follows_it(stream: Stream, scripted: Scripted) -> None:
    """The stream said so just before these frames came, after whoever notes gaps had looked."""
    scripted.frames = [b"a"]
    scripted.noticed = [Notice("info", "OutdatedCursor", "", cursor=5)]
    assert stream.take(2, 100) == [] and stream.outdated == 5 and stream.has_news
    stream.outdated = None
    assert stream.take(2, 100) == [b"a"]


@pytest.mark.parametrize(
    "notice",
    [
        Notice("info", "OutdatedCursor", "", cursor=0),
        Notice("gap", "", "", cursor=5, first_seq=9),
        Notice("went_back", "", "", cursor=5, first_seq=2),
        Notice("info", "Hello", "", cursor=5),
        Notice("text", "", "", cursor=5),
    ],
)
def test_what_is_no_gap(stream: Stream, scripted: Scripted, notice: Notice) -> None:
    scripted.noticed = [notice]
    stream.listen()
    assert stream.outdated is None


def test_when_it_has_caught_up(stream: Stream, scripted: Scripted) -> None:
    """Once all is applied that had come when nothing waited any more, though more of it comes all the time."""

    def is_caught_up() -> bool:
        stream.is_caught_up = False
        stream.observe(time.monotonic())
        return stream.is_caught_up

    assert not is_caught_up(), "nothing was taken yet"
    stream.is_drained = True
    assert is_caught_up(), "it is connected, and quiet"
    stream.count([decoded(stream, 9)], 0.0)
    assert not is_caught_up(), "what was decoded is not applied yet"
    assert stream.position is not None
    stream.position.seq = 9
    stream.count([decoded(stream, 10)], 0.0)
    assert is_caught_up(), "9 was the last one when nothing waited"
    assert not is_caught_up()
    stream.position.seq = 10
    assert is_caught_up()
    scripted.status = replace(scripted.status, last_frame_at=time.time())
    assert not is_caught_up(), "old labels, of which more may come"
    stream.count([decoded(stream, 10, cts_micros=time.time_ns() // 1_000)], 0.0)
    assert is_caught_up(), "its labels are new"
    stream.is_drained = False
    assert not is_caught_up(), "more of it waits"
    stream.is_drained = True
    scripted.status = replace(scripted.status, connected=False, state="waiting", last_error="Away.")
    assert not is_caught_up() and (stream.state, stream.reason) == ("waiting", "Away.")


def test_a_number_that_was_made_up_moves_no_cursor(stream: Stream) -> None:
    frames = [decoded(stream, seq) for seq in (7, 2**53 - 1, 8)]
    stream.count(frames, 0.0)
    assert [frame.seq for frame in frames] == [7, None, 8]


def test_parked_where_nearly_all_is_rejected(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LABELER_REJECTED", 100)
    for seq in range(6, 16):
        stream.count([decoded(stream, seq, valid=10, rejected=90)], 0.0)
    assert stream.is_open, "one in ten is valid"
    for seq in range(16, 40):
        stream.count([decoded(stream, seq, valid=0, rejected=90)] if stream.is_open else [], 0.0)
    assert stream.state == "parked" and "lately because: forged" in str(stream.reason)


def test_parked_and_tried_again(stream: Stream, scripted: Scripted) -> None:
    scripted.status = SubscriptionStatus(state="waiting", hopeless=True, last_error="There is nothing here.")
    stream.observe(1_000.0)
    assert (stream.state, stream.reason, scripted.stopped) == ("parked", "There is nothing here.", True)
    assert 3_600 <= stream.parked_until - 1_000 <= 3_960
    assert not stream.describe(identity()) and stream.parked_until > 0
    assert stream.describe(identity(key="did:key:z2")) and stream.parked_until == 0.0
