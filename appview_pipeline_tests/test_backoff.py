"""The one policy of pauses between attempts."""

from __future__ import annotations

from appview_pipeline.backoff import Backoff


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
