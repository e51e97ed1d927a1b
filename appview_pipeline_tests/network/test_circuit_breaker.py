from __future__ import annotations

from appview_pipeline.backoff import BREAKER_FAILURES, BREAKER_SECONDS
from appview_pipeline.network.circuit_breaker import CircuitBreaker


def opened(now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(BREAKER_FAILURES):
        assert breaker.refuses_for(now) is None
        breaker.failed(now, "it hangs", began=now, is_probe=breaker.let_through())
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = CircuitBreaker()
    for _ in range(10):
        for _ in range(BREAKER_FAILURES - 1):
            breaker.failed(1.0, "it hangs", began=1.0, is_probe=breaker.let_through())
        breaker.let_through()
        breaker.succeeded(1.0)
    assert breaker.state == "closed" and breaker.failures == 0 and breaker.opened == 0

    breaker = opened()
    assert (breaker.state, breaker.failures, breaker.opened, breaker.reason) == ("open", 5, 1, "it hangs")
    assert breaker.refuses_for(100.0) == BREAKER_SECONDS == 60.0
    assert breaker.refuses_for(159.0) == 1.0


def test_one_probe_closes_it_or_opens_it_again() -> None:
    breaker = opened()
    now = 100.0 + BREAKER_SECONDS
    assert breaker.refuses_for(now) is None
    assert breaker.let_through()
    assert breaker.state == "probing"
    assert breaker.refuses_for(now) == 0.0, "there is one probe"
    breaker.failed(now + 5, "it still hangs", began=now + 5, is_probe=True)
    assert (breaker.state, breaker.opened, breaker.reason) == ("open", 2, "it still hangs")
    assert breaker.refuses_for(now + 5) == BREAKER_SECONDS

    assert breaker.refuses_for(now + 65) is None
    assert breaker.let_through()
    breaker.succeeded(now)
    assert (breaker.state, breaker.failures, breaker.open_until) == ("closed", 0, None)
    assert not breaker.let_through()


def test_a_probe_that_says_nothing_leaves_the_next_one() -> None:
    breaker = opened()
    assert breaker.let_through()
    breaker.undecided(is_probe=True)
    assert breaker.state == "open"
    assert breaker.refuses_for(100.0 + BREAKER_SECONDS) is None


def test_a_request_from_before_is_not_the_probe() -> None:
    breaker = CircuitBreaker()
    early = [breaker.let_through() for _ in range(BREAKER_FAILURES + 2)]
    for is_probe in early[:BREAKER_FAILURES]:
        breaker.failed(100.0, "it hangs", began=100.0, is_probe=is_probe)
    assert breaker.let_through()
    breaker.failed(161.0, "it hangs", began=161.0, is_probe=early[-2])
    breaker.undecided(is_probe=early[-1])
    assert breaker.state == "probing" and breaker.opened == 1 and breaker.refuses_for(161.0) == 0.0


def test_requests_that_hang_while_others_are_answered_are_no_failures_of_the_server() -> None:
    """Ten accounts of which the server says nothing hold ten requests, and all of them end at about the same time."""
    breaker = CircuitBreaker()
    for second in range(10):
        breaker.let_through()
        breaker.succeeded(second + 0.5)
    for second in range(10):
        breaker.failed(second + 15.0, "it hangs", began=float(second), is_probe=False)
    assert (breaker.state, breaker.failures, breaker.reason) == ("closed", 0, "it hangs")
    for _ in range(BREAKER_FAILURES):
        breaker.failed(30.0, "it hangs", began=25.0, is_probe=False)
    assert breaker.state == "open", "nobody was answered since"
