from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from requests.structures import CaseInsensitiveDict

from appview_pipeline.backoff import MAX_RETRY_AFTER, MIN_RETRY_AFTER
from appview_pipeline.network.rate_limits import Parking, rate_limit_pause, retry_after


def headers(**values: str) -> CaseInsensitiveDict[str]:
    return CaseInsensitiveDict({name.replace("_", "-"): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("3600", MAX_RETRY_AFTER),
        ("99999999999999999999", MAX_RETRY_AFTER),
        ("date +100", 100),
        ("date +100000", MAX_RETRY_AFTER),
        ("date -100", None),
        ("0", None),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("1e9", None),
        ("٣٠", None),
        ("9" * 30, None),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("x" * 100_000, None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """`date` stands for the date so many seconds from now."""
    if text.startswith("date "):
        text = formatdate(time.time() + int(text[5:]), usegmt=True)
    assert retry_after(headers(retry_after=text)) == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    ("given", "in_flight", "seconds"),
    [
        (headers(RateLimit_Limit="100", RateLimit_Remaining="0", RateLimit_Reset="30"), 0, 30),
        (headers(ratelimit_remaining="0", ratelimit_reset="time +50"), 0, 50),  # Bluesky's PDS
        (headers(X_RateLimit_Remaining="0", X_RateLimit_Reset="30"), 0, 30),
        (headers(RateLimit_Remaining="0, 0;w=1", RateLimit_Reset="30"), 0, 30),
        (headers(RateLimit_Remaining="1", RateLimit_Reset="30"), 0, None),
        (headers(RateLimit_Remaining="3", RateLimit_Reset="30"), 3, 30),
        (headers(RateLimit_Remaining="3", RateLimit_Reset="30"), 2, None),
        (headers(RateLimit_Remaining="0", RateLimit_Reset="100000"), 0, MAX_RETRY_AFTER),
        (headers(RateLimit_Remaining="0", RateLimit_Reset="time -50"), 0, None),
        (headers(RateLimit_Remaining="0"), 0, None),
        (headers(RateLimit_Remaining="none", RateLimit_Reset="30"), 0, None),
        (headers(RateLimit_Remaining="-1", RateLimit_Reset="30"), 0, None),
        (headers(RateLimit='"default";r=0;t=30'), 0, 30),
        (headers(RateLimit='"day";r=5;t=1000, "hour";r=0;t=30'), 0, 30),
        (headers(RateLimit='"day";r=5;t=1000, "hour";r=0;t=30'), 5, MAX_RETRY_AFTER),
        (headers(RateLimit="limit=100, remaining=0, reset=30"), 0, 30),
        (headers(RateLimit='"default";r=10;t=30'), 0, None),
        (headers(RateLimit=",;=" * 10_000), 0, None),
        (headers(), 0, None),
    ],
)
def test_rate_limits(given: CaseInsensitiveDict[str], in_flight: int, seconds: float | None) -> None:
    """`time` stands for the UNIX time so many seconds from now."""
    reset = given.get("RateLimit-Reset", "")
    if reset.startswith("time "):
        given = given.copy()
        given["RateLimit-Reset"] = str(int(time.time()) + int(reset[5:]))
    assert rate_limit_pause(given, in_flight) == pytest.approx(seconds, abs=2)


def test_a_server_is_left_alone_as_long_as_it_asks() -> None:
    parking = Parking()
    assert parking.seconds_left(100.0) == 0
    assert parking.refused(100.0, headers(retry_after="30")) == 30
    assert parking.refused(110.0, headers(retry_after="5")) == 20, "the longer one stands"
    assert parking.seconds_left(129.0) == 1 and parking.seconds_left(130.0) == 0
    assert parking.refused(200.0, headers(retry_after="0.001")) == MIN_RETRY_AFTER
    assert parking.refused(300.0, headers(RateLimit_Remaining="0", RateLimit_Reset="40")) == 40


def test_pauses_that_the_server_does_not_give_grow() -> None:
    parking, now, pauses = Parking(), 0.0, []
    for _ in range(10):
        pauses.append(parking.refused(now, headers()))
        assert parking.refused(now, headers()) == pauses[-1], "answers to requests made at once count once"
        now += pauses[-1]
    assert 2.5 <= pauses[0] <= 5 and 150 <= pauses[-1] <= 300 and pauses[-1] > pauses[3] > pauses[0]
    parking.answered(now, headers(), 0)
    assert parking.refused(now, headers()) <= 5


def test_an_hour_of_429_is_few_requests() -> None:
    parking, now, requests = Parking(), 0.0, 0
    while now < 3_600:
        now += parking.refused(now, headers(retry_after=str(int(3_600 - now))))
        requests += 1
    assert requests == 4


def test_a_limit_that_is_used_up_parks_before_it_is_passed() -> None:
    parking = Parking()
    parking.answered(100.0, headers(RateLimit_Remaining="5", RateLimit_Reset="30"), 4)
    assert parking.seconds_left(100.0) == 0
    parking.answered(100.0, headers(RateLimit_Remaining="4", RateLimit_Reset="30"), 4)
    assert parking.seconds_left(100.0) == 30
