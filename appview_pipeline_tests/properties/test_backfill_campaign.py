"""A small campaign: what was lost, rewritten or tampered with is found and fetched again, whatever is killed."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties.backfill_campaign import Plan, in_words, run


def test_nothing_stays_missing(database: Database) -> None:
    said: list[str] = []
    plan = Plan(
        accounts=60,
        kills=2,
        seconds=5.0,
        rate=60.0,
        hosts=3,
        outage=150,
        hurry=30.0,
        calm=3.0,
        failing=1.0,
        patience=120.0,
    )
    rest = run(database, plan, said.append)
    assert rest.differences == 0, (in_words(rest), rest.examples, rest.failed, said)
    # It was no easy one.
    assert {"chain", "outdated_cursor"} <= set(rest.gaps), (rest.gaps, said)
    assert rest.repositories > 50 and rest.records > 1_000
    assert rest.resyncs > 50
