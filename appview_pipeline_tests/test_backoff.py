"""The one policy of pauses between attempts."""

from __future__ import annotations

import re

from appview_pipeline.backoff import Backoff
from appview_pipeline_tests.support.checkout import CHECKOUT

NUMBERS_OF_A_RETRY = re.compile(
    r"^_?(?:[A-Z]+_)*(?:PATIENCE|PAUSE|POLL|RESTARTS|RETRY|RETRIES|TRIES)(?:_[A-Z]+)*\b(?=.*=)|sleep\([\d.]*[1-9]",
    re.MULTILINE,
)
OTHERS = {
    "defs/leases/leased_tick.py: POLL_SECONDS": "the rhythm of a tick, which the time that Dagster gives it decides",
    "defs/leases/watch.py: STOP_PATIENCE": "a part of the 10 s in which Ctrl-C ends all of Dagster's processes",
}
"""What only looks like one, and why."""


def test_backoff_grows_with_jitter_up_to_its_limit_and_starts_again_after_a_healthy_connection() -> None:
    backoff = Backoff()
    ceilings = [1, 2, 4, 8, 16, 32, 64, 64, 64]
    waits = [[Backoff(failures=n).next() for _ in range(300)] for n in range(len(ceilings))]
    for ceiling, drawn in zip(ceilings, waits, strict=True):
        assert min(drawn) >= 0.1 and max(drawn) <= ceiling
        assert max(drawn) > 0.8 * ceiling and min(drawn) < 0.3 * ceiling
    for _ in ceilings:
        backoff.next()
    backoff.connected_for(29)
    assert backoff.failures == 9
    backoff.connected_for(30)
    assert backoff.failures == 0
    backoff.next()
    backoff.connected_for(0.1, progressed=True)
    assert backoff.failures == 0
    assert all(32 <= Backoff().longest_wait() <= 64 for _ in range(50))


def test_retries_and_polls_have_their_numbers_here() -> None:
    product = CHECKOUT / "appview_pipeline"
    found = {
        f"{path.relative_to(product)}: {match.group()}"
        for path in product.rglob("*.py")
        if path.name != "backoff.py"
        for match in NUMBERS_OF_A_RETRY.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == OTHERS.keys()
