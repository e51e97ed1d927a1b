"""An adoption with several processes comes to the tables of one with one, whichever of them dies."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.adopting import adopt
from appview_pipeline.operations.leaving import leave
from appview_pipeline.settings import Settings
from appview_pipeline.store import adoption_ranges
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.busy_world import busy_frames
from appview_pipeline_tests.support.tables import Fresh, differences, dump, one, replayed_frames, rows

pytestmark = pytest.mark.slow

DAMAGE = """
DELETE FROM bsky.post WHERE hashtext(uri) % 5 = 0;
DELETE FROM bsky."like" WHERE hashtext(uri) % 3 = 0;
DELETE FROM bsky.follow WHERE hashtext(uri) % 3 = 0;
DELETE FROM bsky.feed_item WHERE hashtext(uri) % 4 = 0;
DELETE FROM bsky.duplicate_record WHERE hashtext(uri) % 2 = 0;
UPDATE bsky.post SET "invalidReplyRoot" = true, "violatesThreadGate" = false
WHERE "replyParent" IS NOT NULL AND hashtext(uri) % 3 = 0;
UPDATE bsky.post SET text = 'another' WHERE hashtext(uri) % 7 = 0;
UPDATE bsky.record SET json = replace(json, '"text":"', '"text":7,"words":"')
WHERE uri LIKE '%/app.bsky.feed.post/%' AND hashtext(uri) % 3 = 0;
ANALYZE bsky.record
"""
"""Rows that are lost or wrong; records that are refused, with replies, likes and reposts of others."""


def damaged(database: Database, tmp_path: Path) -> Settings:
    replayed_frames(database, tmp_path, list(busy_frames(220, 21)), batch_size=50)
    database.engine.dispose()
    leave(database)
    rows(database.url, DAMAGE)
    return Settings(database_url=database.url)


def test_several_processes_come_to_the_same_tables(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them is killed, and the next call has another number."""
    with fresh() as single, fresh() as several:
        summary = adopt(damaged(single, tmp_path), single, watch=False)
        settings = damaged(several, tmp_path)
        monkeypatch.setattr(adoption_ranges, "RECORDS_OF_RANGE", 10)

        def kill(step: str, number: int) -> None:
            for child in multiprocessing.active_children()[:1]:
                child.kill()

        with pytest.raises(OperatorError, match="has ended with code -9"):
            adopt(settings, several, processes=2, watch=False, progress=kill)
        ranges = "SELECT count(*) FROM pipeline.adoption_range"
        assert one(several.url, ranges) > 4
        again = adopt(settings, several, processes=3, watch=False)
        assert one(several.url, ranges) == 0
        assert again.adoption.counts["records"] == summary.adoption.counts["records"] > 100
        assert again.adoption.counts["refused records"] == summary.adoption.counts["refused records"] > 3
        assert differences(without_what_moments_decide(several.url), without_what_moments_decide(single.url)) == []


def without_what_moments_decide(url: str) -> dict[str, list[str]]:
    """All tables but the adoption's own, whose times and whose counts of what was repaired twice differ."""
    return {table: lines for table, lines in dump(url).items() if not table.startswith("pipeline.adoption")}
