"""The parts of a soak, each without the hour that a soak takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.soak import report
from appview_pipeline_tests.soak.__main__ import Soak
from appview_pipeline_tests.soak.comparison import Compared, stored_contents
from appview_pipeline_tests.soak.network_process import NetworkPlan, NetworkProcess, Rest, digest
from appview_pipeline_tests.soak.samples import Sample, course, rate_of, read_samples
from appview_pipeline_tests.soak.troubles import LAST, Trouble, Troubles, plan
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.process_use import Taken, taken
from appview_pipeline_tests.support.tables import rows

SECONDS = 1_800.0
MB = 1_000_000


def sample(at: float, memory: int = 100 * MB, files: int = 20, rows: int = 0, connections: int = 10) -> Sample:
    return Sample(
        at=at,
        behind=5,
        published=int(at * 1_000),
        processes={"consumer": Taken(pid=1, memory=memory, files=files, threads=5, cpu=1.0)},
        connections={"index": connections, "dagster": 3},
        dagster_rows={"event_logs": rows},
    )


def soak(samples: list[Sample], **changes: Any) -> Soak:
    """A soak in which all was as promised, but for the changes."""
    made = Soak(SECONDS, 1_000.0, samples=samples, published=int(SECONDS * 1_000), compared=Compared(repositories=3))
    return dataclasses.replace(made, **changes)


def evenly(**growth: float) -> list[Sample]:
    """A sample every 10 s; what is named grows by so much a second."""
    start = {"memory": 100 * MB, "files": 20, "rows": 0, "connections": 10}
    return [
        sample(at, **{name: int(value + growth.get(name, 0) * at) for name, value in start.items()})
        for at in map(float, range(0, int(SECONDS), 10))
    ]


def test_what_stays_flat_is_as_promised() -> None:
    assert report.problems(soak(evenly())) == []
    assert report.table(soak(evenly())).endswith("0 differences")


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        ({"memory": 0.1 * MB}, "memory of the consumer grew"),
        ({"files": 0.02}, "files of the consumer grew"),
        ({"connections": 0.01}, "connections to index grew"),
    ],
)
def test_what_grows_is_not(growth: dict[str, float], words: str) -> None:
    (problem,) = report.problems(soak(evenly(**growth)))
    assert words in problem


def test_an_event_log_that_grows_although_it_is_pruned_is_not() -> None:
    (problem,) = report.problems(soak(evenly(rows=1.5)))
    assert "event_logs grew" in problem


def test_each_broken_promise_is_said() -> None:
    never = Trouble("PostgreSQL crashed", lambda: None, began=1.0, ended=2.0)
    late = Trouble("the disk full", lambda: None, began=1.0, ended=2.0, caught_up=600.0)
    broken = soak(
        evenly(),
        troubles=Troubles([never, late], happened=[never, late]),
        red={"keeps_up": "far behind"},
        stopped={"daemon": 25.0, "code": 2.0},
        left_running=["python -m x"],
        published=10,
        compared=Compared(differences=["2 records missing"]),
        failures=["the index did not come to rest"],
    )
    said = "\n".join(report.problems(broken))
    for words in (
        "did not come to rest", "2 records missing", "no repository was compared", "keeps_up is not green: far behind",
        "PostgreSQL crashed: the index was never level", "the disk full: level again only after 598 s",
        "the daemon took 25.0 s", "left running", "made only 0 events",
    ):  # fmt: skip
        assert words in said
    assert "code took" not in said
    report.table(broken)


def test_a_course_leaves_the_first_quarter_out_and_needs_the_last() -> None:
    values = [(0.0, 900.0), (300.0, 10.0), (500.0, 12.0), (800.0, 20.0), (999.0, 30.0)]
    found = course("x", values, 1_000.0)
    assert found is not None and (found.early, found.late, found.most) == (10.0, 25.0, 900.0)
    assert found.grew(0.5, 5) and not found.grew(0.5, 10)
    assert course("x", values[:3], 1_000.0) is None
    assert rate_of([sample(0, rows=10), sample(60, rows=40)], "event_logs", 0, 60) == 30.0
    assert rate_of([sample(0, rows=10)], "event_logs", 0, 60) is None


def test_samples_can_be_read_again() -> None:
    before = [sample(1.0), Sample(at=2.0, trouble="the database is away")]
    assert read_samples([it.line() for it in before]) == before


class Nothing:
    """Whatever is asked of it, nothing happens."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@pytest.mark.parametrize("minutes", [1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("disk", [None, Path("/small")])
def test_troubles_come_one_after_the_other_and_leave_time_at_the_end(minutes: float, disk: Path | None) -> None:
    server: Any = Nothing(disk=disk)
    anything: Any = Nothing(services={})
    troubles = plan(server, anything, anything, minutes * 60)
    times = [trouble.at for trouble in troubles.planned]
    assert times == sorted(times) and len(set(times)) == len(times)
    assert times[0] > 0 and times[-1] < minutes * 60 * LAST
    names = {trouble.name for trouble in troubles.planned}
    assert ("the disk full" in names) == (disk is not None and minutes >= 10)
    assert len(names) + len(troubles.left_out) == 11
    assert (minutes < 10) or len(names) >= 10


def test_a_trouble_begins_once_lasts_and_ends_once() -> None:
    log: list[str] = []
    trouble = Trouble("x", lambda: log.append("begin"), lambda: log.append("end"), seconds=10.0, at=5.0)
    troubles = Troubles([trouble])
    for now in (0.0, 4.9, 5.0, 9.0, 14.9):
        troubles.step(now, lambda line: None)
    assert log == ["begin"] and not troubles.is_calm()
    troubles.note(14.0)
    assert trouble.caught_up is None, "it is not over"
    for now in (15.5, 16.0):
        troubles.step(now, lambda line: None)
    assert log == ["begin", "end"] and troubles.is_calm()
    troubles.note(15.0)
    assert trouble.caught_up is None, "level before the end is not level again"
    troubles.note(20.0)
    troubles.note(30.0)
    assert trouble.caught_up == 20.0


def test_the_network_is_a_process_that_does_what_it_is_told() -> None:
    with NetworkProcess(NetworkPlan(rate=200.0, accounts=20, lost=0.05, labelers=2, label_rate=20.0)) as network:
        environment = network.order("environment")
        assert environment["APPVIEW_RELAY_URL"].startswith("ws://127.0.0.1:")
        before = network.order("state")["published"]
        network.order("begin")
        while network.order("state")["published"] < before + 200:
            pass
        for name, arguments in (("relay_down", ()), ("relay_up", ()), ("pds_down", (2,)), ("pds_up", (2,)),
                                ("labeler_hangs", (0,)), ("labeler_works", (0,))):  # fmt: skip
            network.order(name, *arguments)
        with pytest.raises(AssertionError, match="could not do pds_down: IndexError"):
            network.order("pds_down", 17)
        rest = network.order("rest")
        assert rest.newest == network.order("state")["newest"] and rest.published > 200
        assert rest.lost > 0 and len(rest.living) >= 19 and len(rest.labels) == 2
        found = taken(network.pid)
        assert found is not None and found.memory > MB and found.files > 5 and found.threads > 1
    assert taken(network.pid) is None


def is_commit(message: str | bytes) -> bool:
    return isinstance(message, bytes) and isinstance(decode_frame(message), Commit)


def test_a_frozen_stream_server_keeps_its_sockets_open_and_is_silent() -> None:
    ann = Person(Stream(), "ann")
    with Relay([ann.commit(post("a", "x"))]) as relay:
        url = f"{relay.url}{relay.method}?cursor=0"
        with connect(url) as client:
            assert is_commit(client.recv(timeout=60))
            relay.freeze()
            relay.publish([ann.commit(post("b", "x"))])
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.5)
            assert not client.ping().wait(0.5)
            relay.thaw()
            with connect(url) as another:
                assert is_commit(another.recv(timeout=60)) and is_commit(another.recv(timeout=60))
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.2)


def test_a_repository_is_what_its_records_are(database: Database) -> None:
    stream = Stream()
    ann, ben = Person(stream, "ann"), Person(stream, "ben")
    index(database, ann.commit(post("one", "1"), post("two", "2")), ben.commit(post("one", "3")))
    rest = Rest(
        newest=0, published=0, living=[ann.did, "did:plc:silent"], deleted=[ben.did], labels={}, keeps_all=[], lost=0
    )
    found = Compared()
    stored = stored_contents(database.url, rest, found)
    cids = rows(database.url, "SELECT cid FROM bsky.record WHERE did = %s ORDER BY uri", ann.did)
    ours = [(f"app.bsky.feed.post/{rkey}", cid) for rkey, (cid,) in zip(("one", "two"), cids, strict=True)]
    assert stored == {ann.did: digest(reversed(ours))} and (found.repositories, found.records) == (2, 2)
    assert stored[ann.did] != digest(ours[:1]) and stored[ann.did] != digest([ours[0], (ours[1][0], ours[0][1])])
