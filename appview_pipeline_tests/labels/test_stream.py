"""One labeler's stream: what it gives to be decoded, and what it concludes from how its subscription is."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import pytest

from appview_pipeline import backoff
from appview_pipeline.identity.cache import KnownIdentity
from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.labels.label_frame import LabelFrame, Position
from appview_pipeline.labels.resolutions import Resolutions
from appview_pipeline.labels.stream import Stream
from appview_pipeline.labels.streams import Streams
from appview_pipeline.network.hosts import Hosts
from appview_pipeline.network.notices import Notice
from appview_pipeline.network.subscription import Subscription, SubscriptionStatus
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.labelers import LabelerIdentity
from appview_pipeline_tests.support.label_rows import label_row
from appview_pipeline_tests.support.scripted_subscription import Scripted

LABELER = "did:plc:labelerrrrrrrrrrrrrrrrrr"
SERVER = "wss://labels.example"


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
    scripted.noticed = [Notice("info", "OutdatedCursor", "", cursor=5)]
    stream.listen()
    assert stream.outdated is None, "said again of the same cursor"
    scripted.noticed = [Notice("info", "OutdatedCursor", "", cursor=9)]
    stream.listen()
    assert stream.outdated == 9


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


def test_parked_because_of_frames_that_are_large_and_bad(stream: Stream) -> None:
    """Each costs as much as thousands of labels."""
    frames = 0
    while stream.is_open:
        letter = DeadLetter("frame-body", "no list", None, LABELER, None, b"x" * 5_000_000)
        stream.count([LabelFrame(cast(Position, stream.position), None, rejected=[letter])], 0.0)
        frames += 1
    assert frames == 2 and stream.state == "parked" and stream.rejected_in_all == 2


def test_parked_and_tried_again(stream: Stream, scripted: Scripted) -> None:
    scripted.status = SubscriptionStatus(state="waiting", hopeless=True, last_error="There is nothing here.")
    stream.observe(1_000.0)
    assert (stream.state, stream.reason, scripted.stopped) == ("parked", "There is nothing here.", True)
    assert 3_600 <= stream.parked_until - 1_000 <= 3_960
    assert not stream.describe(identity()) and stream.parked_until > 0
    assert stream.describe(identity(key="did:key:z2")) and stream.parked_until == 0.0


@pytest.mark.parametrize(
    "status",
    [
        SubscriptionStatus(state="waiting", hopeless=True, last_error="There is nothing here."),
        SubscriptionStatus(state="future_cursor", last_error="It lies in the future."),
    ],
)
def test_what_came_before_is_applied_before_it_is_parked(
    stream: Stream, scripted: Scripted, status: SubscriptionStatus
) -> None:
    """It may not come again: a server that was set up anew, for example, has other labels."""
    scripted.frames, scripted.status = [b"a", b"b"], replace(status, buffered_frames=2)
    stream.observe(1_000.0)
    assert (stream.state, stream.reason) == ("waiting", status.last_error)
    assert stream.take(2, 1) == [b"a"]
    scripted.status = status
    stream.observe(1_000.0)
    assert stream.is_open, "one was received and not decoded yet"
    assert stream.take(2, 1) == [b"b"]
    stream.observe(1_000.0)
    assert stream.state == "parked"


# ---- many of them


def several(*received: list[bytes]) -> Streams:
    """The streams of several labelers, which have received so much, in micro-batches of 100 frames."""
    settings = Settings(batch_events=100, batch_seconds=0.0, unsigned_labelers=("unsigned",))
    streams = Streams(settings, cast(Database, None), cast(Resolutions, None), cast(Hosts, None))
    for number, frames in enumerate(received):
        scripted = cast(Subscription, Scripted(frames))
        made = Stream(f"{number}", lambda address, cursor, scripted=scripted: scripted)  # type: ignore[misc]
        made.open(SERVER, 0)
        streams._streams[made.did] = made
    return streams


def taken(streams: Streams) -> dict[str, int]:
    """How many frames of each labeler are in the next micro-batch."""
    return {it.stream.did: len(it.frames) for it in streams.take()}


def test_no_labeler_goes_without_because_of_the_frames_of_another() -> None:
    """The frames of one labeler are as large as a micro-batch: the others have their share all the same."""
    streams = several(*([b"x" * 5_000_000 if number == 4 else b"x" * 100] * 40 for number in range(10)))
    assert taken(streams) == {f"{number}": 1 if number == 4 else 10 for number in range(10)}
    assert not any(stream.is_drained for stream in streams.streams)


def test_what_some_do_not_use_is_for_the_others() -> None:
    streams = several([b"x"], [], [b"x"] * 500, [b"x"] * 20)
    found = taken(streams)
    assert found == {"0": 1, "2": 79, "3": 20}
    assert [stream.did for stream in streams.streams if stream.is_drained][:2] == ["0", "1"]


def test_news_without_frames_cost_little() -> None:
    """A labeler may send a thousand notices a second."""
    looks = 0

    class Counted(Scripted):
        @property
        def status(self) -> SubscriptionStatus:
            nonlocal looks
            looks += 1
            return SubscriptionStatus(state="connected", connected=True)

        @status.setter
        def status(self, _: object) -> None: ...

    streams = several([])
    streams._settings = Settings(batch_seconds=0.5)
    streams.streams[0].subscription = cast(Subscription, Counted())
    stop = threading.Event()

    def say_something() -> None:
        while not stop.wait(0.001):
            streams._news.set()

    thread = threading.Thread(target=say_something)
    thread.start()
    try:
        assert streams.take() == [] and 3 <= looks <= 25
    finally:
        stop.set()
        thread.join()


def test_a_defect_that_a_labeler_triggers_is_its_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(frames: list[bytes], position: Position, *_: object) -> tuple[list[LabelFrame], int]:
        assert position.did != "1", "what it sent"
        return [LabelFrame(position, 1)], len(frames)

    monkeypatch.setattr("appview_pipeline.labels.streams.read_frames", read)
    streams = several([b"x"], [b"x"], [b"x"])
    assert [frame.position.did for frame in streams.decode(streams.take())] == ["2", "0"]
    assert {it.did: it.state for it in streams.streams} == {"0": "waiting", "1": "parked", "2": "waiting"}
    assert "this program failed at what it sent after 0 (AssertionError: what it sent" in str(streams.streams[1].reason)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ValueError("what it says"), "this program failed at its DID document (ValueError: what it says)"),
        (KnownIdentity("0", None, reason="nobody answers"), "its DID document can't be resolved: nobody answers"),
        (KnownIdentity("0", "not found", resolved_at=2.0), "its DID document has none any more"),
        (KnownIdentity("0", "found", labeler_key="did:key:z1", resolved_at=2.0), None),
    ],
)
def test_what_a_doubtful_key_comes_to(answer: KnownIdentity | Exception, reason: str | None) -> None:
    """Nothing is rejected until there is a document with a key. Whatever happens at one labeler's, others go on."""
    streams = several([b"x"], [b"x"])
    doubted = streams._streams["0"]
    doubted.doubted_at, doubted.doubt = 1.0, Future()
    if isinstance(answer, Exception):
        doubted.doubt.set_exception(answer)
    else:
        doubted.doubt.set_result(answer)
    assert taken(streams) == ({"1": 1} if reason else {"0": 1, "1": 1})
    assert (doubted.held_reason or "").endswith(reason or ""), doubted.held_reason
    assert doubted.is_held == (reason is not None)


def test_without_a_key_a_labeler_that_needs_none_goes_on() -> None:
    """Of those that need no signature, one that does not fit is rejected all the same."""
    streams = several([b"x"])
    (doubted,) = streams.streams
    doubted.did, doubted.doubt = "unsigned", Future()
    doubted.doubt.set_result(KnownIdentity("unsigned", "found", resolved_at=2.0))
    assert taken(streams) == {"unsigned": 1} and not doubted.is_held
