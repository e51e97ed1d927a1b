"""Every condition of health: when it passes, when it fails, and what it says then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline.operations.conditions import CONDITIONS, Condition, Verdict, judge_all
from appview_pipeline.operations.verdict import Severity
from appview_pipeline.operations.words import at_least, duration, share, size
from appview_pipeline.settings import SETTINGS, Settings
from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.fetch_reports import LastFetchReport, Outcomes
from appview_pipeline.store.health_report import (
    BackfillHealth,
    FetchQueueHealth,
    HealthReport,
    HostHealth,
    PendingHealth,
    RepositoryHealth,
    StreamHealth,
    SweepHealth,
    TableHealth,
)
from appview_pipeline.store.identities import QueueLength
from appview_pipeline.store.identity_reports import LastReport
from appview_pipeline.store.sync_reports import OpenGaps
from appview_pipeline.store.upstreams import LeftAlone, StoredUpstream
from appview_pipeline_tests.support.health import DISK, STREAM, WELL
from appview_pipeline_tests.support.labelers import QUIET

BY_NAME = {condition.name: condition for condition in CONDITIONS}
SETTINGS_OF_A_BACKFILL = Settings(backfill_days=-1)
PLC = StoredUpstream("plc.directory", "open", 5, 1, None, None, "no answer within 15 s")
OTHER = replace(PLC, host="pds.example")
PARKED = replace(QUIET, did="did:plc:parked", state="parked", reason="its DID document has no key for labels")


def stream(**changes: Any) -> HealthReport:
    return replace(WELL, streams=[replace(STREAM, **changes)])


def server(**changes: Any) -> HealthReport:
    return replace(WELL, server=replace(WELL.server, **changes))


def of_shard(shard: str, **changes: Any) -> StreamHealth:
    return replace(STREAM, shard=shard, **changes)


def disk(**changes: Any) -> HealthReport:
    return replace(WELL, disk=replace(DISK, **changes))


# What makes each condition fail: the report, and words that it says.
FAILS: list[tuple[str, HealthReport, str]] = [
    ("connected", replace(WELL, streams=[]), "Nothing was applied from wss://bsky.network ever"),
    ("connected", stream(is_consumed=False), "No consumer is at work on wss://bsky.network"),
    ("connected", stream(idle_seconds=200.0), "for 3 min (limit 3 min)"),
    ("connected", replace(WELL, streams=[of_shard("0/2"), of_shard("1/2", is_consumed=False)]), "(shard 1/2)"),
    ("connected", replace(WELL, streams=[of_shard("0/3"), of_shard("2/3")]), "(shard 1/3)"),
    ("keeps_up", stream(lag_seconds=61.0), "61 s behind the relay or the clock (limit 60 s)"),
    ("keeps_up", stream(idle_seconds=61.0), "61 s behind"),
    ("keeps_up", replace(WELL, streams=[]), "Nothing has been consumed"),
    ("keeps_up", replace(WELL, streams=[of_shard("0/3"), of_shard("2/3")]), "consume the shards 1/3: their"),
    ("throughput", stream(events_per_second=259.0), "259.0 events/s in the last ten minutes, 520.0/s in the hour"),
    ("few_dead_letters", stream(rejected_last_hour=1_801), "1,801 of 1,800,000 events"),
    ("resolving", replace(WELL, identity_report=None), "has reported nothing yet"),
    ("resolving", replace(WELL, identity_report=LastReport(181.0, 1, None)), "has reported nothing for 3 min"),
    ("resolution_keeps_up", replace(WELL, identities={"new": QueueLength(7, 301.0)}), "the first new one for 5 min"),
    ("resolution_keeps_up", replace(WELL, identity_report=LastReport(600.0, 1, None)), "last reported 10 min ago"),
    ("upstreams_reachable", replace(WELL, upstreams=[PLC]), "The PLC directory failed 5 times in a row"),
    ("fetching", replace(WELL, fetch_report=None), "has reported nothing yet"),
    ("fetching", replace(WELL, fetch_report=LastFetchReport(181.0, 1, None)), "has reported nothing for 3 min"),
    ("fetches_succeed", replace(WELL, outcomes=Outcomes(found=90, invalid=10)), "90.0 % settled"),
    ("pending_is_fetched", replace(WELL, pending=PendingHealth(9, 7, 3_601.0)), "7 may be fetched now, the first for"),
    ("gaps_close", replace(WELL, open_gaps=OpenGaps(5, 9e6, 1, 90_000.0)), "Open gaps: 1, the oldest for 25.0 h"),
    ("repositories_complete", replace(WELL, repositories=RepositoryHealth(1_000, {"error": 9}, 30)), "error 9): 3.0 %"),
    (
        "repositories_are_fetched",
        replace(WELL, queue=FetchQueueHealth(QueueState({2: 9}, 0, 0, 9, 1.0), 22_000.0)),
        "may be fetched since 6.1 h",
    ),
    (
        "backfill_moves",
        replace(WELL, backfill=BackfillHealth(21_600.0), queue=replace(WELL.queue, oldest_other_seconds=30_000.0)),
        "0 repositories with 0 records were fetched in the last 6.0 h",
    ),
    ("hosts_reachable", replace(WELL, hosts=HostHealth(9, 100, 1, 6, {"https://a": "down"})), "https://a: down"),
    ("reading_labels", replace(WELL, is_reading_labels=False), "No label process runs"),
    ("labelers_keep_up", replace(WELL, labelers=[QUIET, PARKED]), "Of 2 labelers 1 parked"),
    ("disk_lasts", disk(free_bytes=40_000_000_000), "4.0 % (limit 5.0 %)"),
    ("disk_lasts", disk(growth=100_000_000_000.0), "That lasts 6.0 days (limit 7)"),
    ("transactions_end", server(oldest_transaction_seconds=3_700.0), "process 7 (psql, active)"),
    ("transaction_ids_last", server(transaction_id_age=600_000_000), "600,000,000 transactions old"),
    ("vacuum_keeps_up", replace(WELL, tables={"bsky.like": TableHealth(100_000, 150_000)}), "bsky.like (60.0 %)"),
    ("connections_left", server(connections=90), "90 of 97 connections"),
    (
        "sweeps_end",
        replace(WELL, sweeps={"labels": SweepHealth(3e5, "it was slow")}),
        "labels (3.5 days: it was slow).",
    ),
]
# What might look like a failure, and is none.
PASSES: list[tuple[str, HealthReport, str]] = [
    ("keeps_up", replace(WELL, streams=[of_shard("1/2"), of_shard("0/2")]), "is 1 s behind"),
    ("connected", stream(idle_seconds=100.0), "its last batch is 2 min old"),
    ("connected", replace(WELL, streams=[STREAM, replace(STREAM, is_in_use=False, is_consumed=False)]), "at work"),
    ("keeps_up", stream(lag_seconds=None), "0 s behind"),
    ("throughput", stream(events_per_second=None), "Too little was applied"),
    ("throughput", stream(events_per_second=30.0, usual_events_per_second=None), "30.0 events/s"),
    ("throughput", stream(events_per_second=0.1, usual_events_per_second=0.4), "0.1 events/s"),
    ("few_dead_letters", stream(events_last_hour=0, rejected_last_hour=0), "0 of 0 events"),
    ("resolving", replace(WELL, identity_report=LastReport(100.0, 1, None)), "last reported 2 min ago"),
    ("resolution_keeps_up", WELL, "907 accounts wait to be resolved, retries included"),
    ("upstreams_reachable", replace(WELL, upstreams=[OTHER], left_alone=LeftAlone(9, 0)), "and about 8 more"),
    ("fetching", WELL, "last reported 4 s ago"),
    ("fetches_succeed", replace(WELL, outcomes=Outcomes(found=1, invalid=9)), "10 answers"),
    ("fetches_succeed", replace(WELL, outcomes=Outcomes(unreachable=500)), "No host answered"),
    ("pending_is_fetched", replace(WELL, pending=PendingHealth(9)), "none waits to be fetched now"),
    ("gaps_close", replace(WELL, open_gaps=OpenGaps(5, 9e6)), "given up for now: 5"),
    ("repositories_complete", replace(WELL, repositories=RepositoryHealth(40, {}, 19)), "19 are not complete"),
    ("repositories_are_fetched", replace(WELL, queue=replace(WELL.queue, oldest_urgent_seconds=None)), "none of them"),
    ("backfill_moves", replace(WELL, queue=replace(WELL.queue, oldest_other_seconds=30_000.0)), "400 repositories"),
    ("backfill_moves", replace(WELL, backfill=BackfillHealth(21_600.0)), "others may be fetched since 10 min"),
    ("hosts_reachable", replace(WELL, hosts=HostHealth(19, 0, 5, 0)), "Of 19 hosts of repositories 5 are left alone"),
    ("reading_labels", WELL, "The label process runs"),
    ("labelers_keep_up", WELL, "caught up"),
    ("disk_lasts", disk(volume_bytes=None, free_bytes=None), "set APPVIEW_DISK_BYTES"),
    ("disk_lasts", disk(growth=-5.0), "600.0 GB of 1.0 TB are free"),
    ("transactions_end", server(oldest_transaction_seconds=None), "No other transaction"),
    ("transaction_ids_last", WELL, "150,000,000 transactions old (limit 500,000,000)"),
    ("vacuum_keeps_up", replace(WELL, tables={"pipeline.cursor": TableHealth(1, 90_000)}), "No large table"),
    ("connections_left", WELL, "20 of 97 connections"),
    ("sweeps_end", replace(WELL, sweeps={}), "No sweep is late (limit 3.0 days)"),
]


def verdict(name: str, report: HealthReport) -> Verdict:
    return BY_NAME[name].judge(report, SETTINGS_OF_A_BACKFILL)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda it: it.name)
def test_every_condition_is_seen_to_fail_and_to_pass(condition: Condition) -> None:
    assert condition.name in {name for name, _, _ in FAILS} and condition.name in {name for name, _, _ in PASSES}
    assert condition.judge(WELL, SETTINGS_OF_A_BACKFILL).passed
    assert condition.judge(WELL, Settings()).passed


@pytest.mark.parametrize(("name", "report", "words"), FAILS, ids=[f"{name}-{words[:20]}" for name, _, words in FAILS])
def test_it_fails_in_words(name: str, report: HealthReport, words: str) -> None:
    found = verdict(name, report)
    assert not found.passed and words in found.words
    assert (found.name, found.asset, found.link) == (name, BY_NAME[name].asset, f"docs/operations.md#{name}")
    assert all(isinstance(number, float) for number in found.numbers.values())


@pytest.mark.parametrize(("name", "report", "words"), PASSES, ids=[f"{name}-{words[:20]}" for name, _, words in PASSES])
def test_it_passes_in_words(name: str, report: HealthReport, words: str) -> None:
    found = verdict(name, report)
    assert found.passed and words in found.words, found.words


def test_one_failure_is_one_verdict() -> None:
    """A condition does not fail because of what is another's; those of one cause are few."""
    for name, report, _ in FAILS:
        failed = {it.name for it in judge_all(report, SETTINGS_OF_A_BACKFILL) if not it.passed}
        assert name in failed and len(failed) <= 2, (name, failed)


@pytest.mark.parametrize(
    ("name", "report", "severity"),
    [
        ("disk_lasts", disk(free_bytes=40_000_000_000), "warn"),
        ("disk_lasts", disk(free_bytes=10_000_000_000), "error"),
        ("disk_lasts", disk(growth=700_000_000_000.0), "error"),
        ("transaction_ids_last", server(transaction_id_age=600_000_000), "warn"),
        ("transaction_ids_last", server(transaction_id_age=1_600_000_000), "error"),
        ("labelers_keep_up", replace(WELL, labelers=[PARKED]), "error"),
        ("labelers_keep_up", replace(WELL, is_reading_labels=False), "error"),
        ("connected", stream(is_consumed=False), "error"),
    ],
)
def test_what_is_urgent_is_an_error(name: str, report: HealthReport, severity: Severity) -> None:
    assert verdict(name, report).severity == severity


def test_thresholds_are_settings() -> None:
    variables = {variable: setting for setting in SETTINGS for variable in setting.metadata["variables"]}
    assert {it.setting for it in CONDITIONS if it.setting is not None} <= variables.keys()
    named = {name for name in variables if "_WARNING_" in name}
    text = " ".join(f"{it.setting} {it.description}" for it in CONDITIONS)
    of_dagster = {"APPVIEW_TICKS_WARNING_COUNT", "APPVIEW_RUNS_WARNING_COUNT", "APPVIEW_DRIFT_WARNING_COUNTERS"}
    assert {name for name in named if name not in text} - of_dagster == {"APPVIEW_LABELS_GAP_WARNING_SECONDS"}


@pytest.mark.parametrize(
    ("name", "report", "changed"),
    [
        ("throughput", stream(events_per_second=259.0), {"throughput_warning_share": 0.0}),
        ("few_dead_letters", stream(rejected_last_hour=1_801), {"dead_letter_warning_share": 0.002}),
        ("disk_lasts", disk(growth=100_000_000_000.0), {"disk_warning_days": 5.0}),
        ("keeps_up", stream(lag_seconds=61.0), {"lag_warning_seconds": 62.0}),
        ("fetches_succeed", replace(WELL, outcomes=Outcomes(found=90, invalid=10)), {"skip_pds_fetching": True}),
        ("pending_is_fetched", replace(WELL, pending=PendingHealth(9, 7, 4e3)), {"skip_pds_fetching": True}),
        ("reading_labels", replace(WELL, is_reading_labels=False), {"labelers": ()}),
        ("labelers_keep_up", replace(WELL, labelers=[PARKED]), {"labelers": ()}),
        ("backfill_moves", replace(WELL, backfill=BackfillHealth(1.0)), {"backfill_days": 0}),
    ],
)
def test_what_is_switched_off_or_allowed_does_not_fail(
    name: str, report: HealthReport, changed: dict[str, Any]
) -> None:
    assert not verdict(name, report).passed
    assert BY_NAME[name].judge(report, replace(SETTINGS_OF_A_BACKFILL, **changed)).passed


def test_a_floor_of_events_fails_below_it() -> None:
    floor = Settings(throughput_warning_rate=501.0)
    assert not BY_NAME["throughput"].judge(WELL, floor).passed
    assert BY_NAME["throughput"].judge(WELL, replace(floor, throughput_warning_rate=499.0)).passed


def test_numbers_for_people() -> None:
    assert [duration(s) for s in (7.4, 150.0, 7_000.0, 400_000.0)] == ["7 s", "2 min", "1.9 h", "4.6 days"]
    assert [size(n) for n in (5e6, 12.3e9, 4e12)] == ["5.0 MB", "12.3 GB", "4.0 TB"]
    assert (share(0.125), at_least(10, 10), at_least(9, 10)) == ("12.5 %", "10 or more", "9")
