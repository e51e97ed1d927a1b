"""Which repository is fetched next: limits of hosts, operators and hosts that may hang."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from appview_pipeline.backfill.lanes import HOST_FAILURES, Lanes, operator_of
from appview_pipeline.store.backfill_queue import Queued
from appview_pipeline.store.hosts import KnownHost

NOW = datetime.now(timezone.utc)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def queued(host: str, number: int, priority: int = 0) -> Queued:
    return Queued(f"did:plc:{host}{number}", f"https://{host}", priority, "discovered", 0, NOW)


def lanes(*proven: str, fetches: int = 16, host_fetches: int = 4, clock: Clock | None = None) -> Lanes:
    made = Lanes(fetches, host_fetches, clock or Clock())
    made.meet(KnownHost(f"https://{host}", 0, True, 0.0, None) for host in proven)
    return made


def started(made: Lanes) -> list[str]:
    found = []
    while (it := made.start()) is not None:
        found.append(it.host.removeprefix("https://"))
    return found


def test_a_host_has_a_limit() -> None:
    made = lanes("a.example", "b.test")
    made.add(queued(host, number) for host in ("a.example", "b.test") for number in range(10))
    assert sorted(started(made)) == ["a.example"] * 4 + ["b.test"] * 4
    made.end("did:plc:a.example0")
    assert started(made) == ["a.example"]


def test_hosts_of_one_operator_leave_a_quarter_to_others() -> None:
    hosts = [f"h{number}.host.example" for number in range(8)]
    made = lanes(*hosts, "other.test")
    made.add(queued(host, number) for host in hosts for number in range(4))
    assert len(started(made)) == 12
    made.add(queued("other.test", number) for number in range(5))
    assert started(made) == ["other.test"] * 4


def test_hosts_that_have_not_delivered_have_one_each_and_half_of_all() -> None:
    hosts = [f"new{number}.test{number}" for number in range(20)]
    made = lanes("good.example")
    made.add(queued(host, number) for host in hosts for number in range(3))
    assert len(started(made)) == 8 and made.room(f"https://{hosts[0]}") > 0
    made.add(queued("good.example", number) for number in range(9))
    assert started(made) == ["good.example"] * 4


def test_a_host_that_fails_is_proven_no_more_and_is_parked_at_last() -> None:
    clock = Clock()
    made = lanes("a.example", clock=clock)
    made.add(queued("a.example", number) for number in range(10))
    assert len(started(made)) == 4
    for number in range(HOST_FAILURES):
        made.end(f"did:plc:a.example{number}")
        given_back = made.failed("https://a.example", "it hangs", None)
    assert len(given_back) == 6 and made.ready == 0 and made.room("https://a.example") == 0
    (news,) = made.news(only_parked=True)
    assert news.failures == HOST_FAILURES and news.reason == "it hangs" and 10 < news.parked_seconds < 16
    assert made.news() == []
    clock.now = 20.0
    made.add([queued("a.example", 11)])
    assert started(made) == [], "one is still at work, and it has to prove itself"
    made.end("did:plc:a.example3")
    assert started(made) == ["a.example"]
    made.end("did:plc:a.example11")
    made.delivered("https://a.example")
    assert made.news()[0].failures == 0


def test_a_host_that_asks_for_a_pause_gets_it() -> None:
    clock = Clock()
    made = lanes("a.example", clock=clock)
    made.failed("https://a.example", "HTTP 429", 600.0)
    made.add([queued("a.example", 1)])
    clock.now = 599.0
    assert started(made) == []
    clock.now = 601.0
    assert started(made) == ["a.example"]


def test_the_highest_priority_goes_first_then_the_host_that_waits_longest() -> None:
    made = lanes("a.example", "b.test", "c.test2", fetches=3)
    made.add([queued("a.example", 1), queued("a.example", 2), queued("b.test", 1), queued("c.test2", 1, 3)])
    assert started(made) == ["c.test2", "a.example", "b.test"]


@pytest.mark.parametrize(
    ("origin", "operator"),
    [
        ("https://morel.us-east.host.bsky.network", "bsky.network"),
        ("https://pds.example.co.uk", "example.co.uk"),
        ("https://example.com", "example.com"),
        ("https://pds.example.com:8443", "example.com"),
        ("http://127.0.0.1:2583", "127.0.0.1:2583"),
        ("https://[2606:4700::1111]", "[2606:4700::1111]"),
        ("http://localhost:80", "localhost:80"),
    ],
)
def test_operators(origin: str, operator: str) -> None:
    assert operator_of(origin) == operator
