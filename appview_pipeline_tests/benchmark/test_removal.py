"""The benchmark of removals measures what it says, on a smaller account."""

from __future__ import annotations

import pytest

from appview_pipeline_tests.benchmark.removal import measure
from appview_pipeline_tests.support.tables import Fresh


@pytest.mark.slow
def test_a_large_account_goes_beside_a_live_writer(fresh: Fresh) -> None:
    with fresh() as database:
        found = measure(database, records=5_000, rate=100, seconds=1.0)
    assert (found.summary.records, found.summary.failed, found.left, found.differing) == (5_000, None, 0, 0)
    assert found.summary.longest_lock < 2.0
    assert "batches" in found.before and "batches" in found.during
