"""Which labelers are reported, with which numbers, and what the checks make of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from appview_pipeline.defs.labels.events import all_event, labeler_event, summary
from appview_pipeline.defs.labels.news import (
    MARK_SECONDS,
    MAX_REPORTED,
    SELDOM_SECONDS,
    WINDOW_SECONDS,
    Reported,
    Window,
)
from appview_pipeline.operations.label_conditions import keeps_up_verdict, state_in_words
from appview_pipeline.operations.labeler_news import difference
from appview_pipeline.settings import Settings
from appview_pipeline.store.label_reports import LabelerReport
from appview_pipeline_tests.support.dagster_events import values
from appview_pipeline_tests.support.labelers import QUIET

PARKED = replace(QUIET, did="did:plc:parked", state="parked", reason="its DID document has no key for labels")


def busy(it: LabelerReport, labels: int) -> LabelerReport:
    """The labeler after it has sent so many labels more, a tenth of them rejected."""
    kinds = {**it.rejected_by_kind, "label-signature": it.rejected_by_kind.get("label-signature", 0) + labels // 10}
    return replace(
        it, frames=it.frames + 1, labels=it.labels + labels - labels // 10, rejected=it.rejected + labels // 10,
        rejected_by_kind=kinds,
    )  # fmt: skip


def numbered(count: int) -> list[LabelerReport]:
    return [replace(QUIET, did=f"did:plc:{n:03}") for n in range(count)]


def test_only_labelers_of_which_something_is_new_are_reported_and_the_others_seldom() -> None:
    reported = Reported(0.0)
    quiet, parked = QUIET, PARKED
    first = reported.due([quiet, parked], 60.0)
    assert len(first) == 2, "each once"
    for it in first:
        reported.note(it, 60.0)
    assert reported.due([quiet, parked], 120.0) == []
    (news,) = reported.due([busy(quiet, 100), parked], 180.0)
    assert (news.labels, news.rejected, news.rejected_by_kind, news.seconds) == (90, 10, {"label-signature": 10}, 120.0)
    reported.note(news, 180.0)
    (news,) = reported.due([busy(quiet, 100), replace(parked, state="connected", reason=None)], 240.0)
    assert news.now.did == parked.did, "a changed state is news"
    overdue = reported.due([busy(quiet, 100), replace(parked, is_wanted=False)], 180.0 + SELDOM_SECONDS)
    assert len(overdue) == 2
    for it in overdue:
        reported.note(it, 180.0 + SELDOM_SECONDS)
    (news,) = reported.due([busy(quiet, 100), replace(parked, is_wanted=False)], 180.0 + 2 * SELDOM_SECONDS)
    assert news.now.did == quiet.did, "of one that is not read any more nothing is said again"


def test_of_many_labelers_those_that_wait_longest_are_reported_and_nothing_is_lost() -> None:
    reported, labelers = Reported(0.0), numbered(200)
    labels: dict[str, int] = dict.fromkeys((it.did for it in labelers), 0)
    times: dict[str, list[float]] = {did: [] for did in labels}
    for minute in range(1, 31):
        labelers = [busy(it, 10) for it in labelers]
        due = reported.due(labelers, minute * 60.0)
        assert len(due) == MAX_REPORTED
        for news in due:
            reported.note(news, minute * 60.0)
            labels[news.now.did] += news.labels
            times[news.now.did].append(minute * 60.0)
    assert all(len(it) == 3 for it in times.values()), "each in its turn"
    assert all(later - earlier == 600.0 for it in times.values() for earlier, later in pairwise(it))
    assert {labels[it.did] for it in labelers} == {labelers[0].labels - 9 * back for back in range(10)}


def test_a_labeler_that_parks_goes_before_the_others() -> None:
    reported, labelers = Reported(0.0), numbered(100)
    for news in reported.due(labelers, 60.0, limit=100):
        reported.note(news, 60.0)
    labelers = [*(busy(it, 1) for it in labelers[:-1]), replace(labelers[-1], state="parked", reason="no key")]
    assert reported.due(labelers, 120.0)[0].now.did == labelers[-1].did


def test_a_code_server_that_starts_reports_what_comes_from_then_on() -> None:
    old = busy(QUIET, 1_000)
    reported = Reported(0.0)
    reported.begin([old])
    assert reported.due([old], 30.0) == []
    (news,) = reported.due([busy(old, 10)], 60.0)
    assert news.labels == 9


def test_a_labeler_that_begins_anew_has_no_negative_numbers() -> None:
    assert difference(busy(QUIET, 10), busy(QUIET, 1_000), 60.0).labels == 9


def test_a_share_is_that_of_the_last_half_hour() -> None:
    window, it = Window(), QUIET
    shares = []
    for minute in range(120):
        it = busy(it, 100) if minute < 30 else replace(it, labels=it.labels + 100)
        (news,) = window.since([it], minute * 60.0)
        shares.append(news.rejected)
    assert shares[29] == 290 and shares[-1] == 0
    assert len(window.marks) <= WINDOW_SECONDS / MARK_SECONDS + 2


def test_numbers_of_one_labeler_are_not_those_of_all() -> None:
    news = difference(replace(busy(QUIET, 100), in_effect=70, handle="mod.test"), None, 60.0)
    event, together = labeler_event(news), all_event([news, difference(PARKED, None, 60.0)], 60.0)
    one, every = values(event.metadata), values(together.metadata)
    details, rejected = one.pop("details"), one.pop("rejected_by_kind")
    assert one == {
        "labels": 90, "changed": 0, "repeated": 0, "rejected": 10, "labels_in_effect": 70, "lag_seconds": 0.0,
        "labels_per_second": 1.5, "state": "connected; everything that it sent is applied", "handle": "mod.test",
    }  # fmt: skip
    assert event.partition == QUIET.did and details["totals"]["labels"] == 90
    assert [dict(row.data) for row in rejected.records] == [{"kind": "label-signature", "rejected": 10}]
    parked = every.pop("parked")
    assert every == {
        "all_labels": 90, "all_changed": 0, "all_rejected": 10, "all_in_effect": 70, "all_labels_per_second": 1.5,
        "largest_lag_seconds": 0.0, "labelers_connected": 1, "labelers_waiting": 0, "labelers_parked": 1,
    }  # fmt: skip
    assert together.partition is None and not one.keys() & every.keys()
    assert parked.records[0].data["reason"] == PARKED.reason
    assert summary([news], [news.now], 45.0) == "90 labels in 45 s, 0 took effect, 10 rejected; labelers: 1 connected"
    assert summary([], [news.now], 45.0) == "nothing was reported in 45 s; labelers: 1 connected"
    assert summary([], [], 45.0) == "no labelers are read yet"


@pytest.mark.parametrize(
    ("it", "words"),
    [
        (QUIET, "connected; everything that it sent is applied"),
        (replace(QUIET, is_caught_up=False), "connected; its newest label that is applied is 6 s old"),
        (replace(QUIET, silent_seconds=None), "connected; it has sent nothing yet"),
        (replace(QUIET, state="new"), "not tried yet"),
        (replace(PARKED, state_seconds=7_200.0), "parked for 2.0 h: its DID document has no key for labels"),
        (replace(PARKED, is_wanted=False), "not read any more"),
    ],
)
def test_states_are_said_in_words(it: LabelerReport, words: str) -> None:
    assert state_in_words(it) == words


BEHIND = replace(QUIET, did="did:plc:behind", is_caught_up=False, newest_seconds=90_000.0)
REJECTED = replace(
    QUIET, did="did:plc:bad", labels=80, rejected=20, rejected_by_kind={"label-source": 1, "label-signature": 19}
)


@pytest.mark.parametrize(
    ("labelers", "trouble", "severity", "words"),
    [
        pytest.param([QUIET], None, None, "The one labeler that is read is caught up.", id="one"),
        pytest.param(numbered(3), None, None, "Of 3 labelers that are read all are caught up.", id="all"),
        pytest.param([], None, None, "No labelers are read yet.", id="none"),
        pytest.param([QUIET, PARKED], None, "warn", "Of 2 labelers 1 parked: did:plc:parked: its DID", id="one parked"),
        pytest.param([PARKED], None, "error", "take one that is gone out of APPVIEW_LABELERS", id="all parked"),
        pytest.param([replace(PARKED, is_wanted=False)], None, None, "No labelers are read yet.", id="not read"),
        pytest.param([QUIET, BEHIND], None, "warn", "is applied is 25.0 h old.", id="behind"),
        pytest.param([replace(BEHIND, newest_seconds=60.0)], None, None, "is caught up", id="a moment behind"),
        pytest.param(
            [replace(QUIET, state="waiting", reason="refused.", state_seconds=500.0)],
            None, "warn", "1 not caught up: did:plc:quiet: waiting for 8 min: refused.", id="waiting",
        ),
        pytest.param(
            [replace(QUIET, state="connected", silent_seconds=None, newest_seconds=None, is_caught_up=False)],
            None, None, "is caught up", id="never sent anything",
        ),
        pytest.param(
            [REJECTED], None, "warn",
            "20 of 100 labels of did:plc:bad in 60 s (label-signature 19, label-source 1). `appview-pipeline "
            "dead-letters --kind label-signature`", id="rejected",
        ),
        pytest.param([replace(REJECTED, labels=0, rejected=19)], None, None, "is caught up", id="few labels"),
        pytest.param([replace(QUIET, gap_seconds=90_000.0)], None, None, "is caught up", id="a young gap"),
        pytest.param([replace(QUIET, gap_seconds=259_200.0)], None, "warn", "did:plc:quiet, for 3.0 days", id="a gap"),
        pytest.param([QUIET], "it crashed", "error", "No labels are read: it crashed.", id="process down"),
    ],
)  # fmt: skip
def test_the_check_names_the_labelers_and_what_to_do(
    labelers: list[LabelerReport], trouble: str | None, severity: str | None, words: str
) -> None:
    result = keeps_up_verdict([difference(it, None, 60.0) for it in labelers], trouble, Settings())
    assert words in result.words
    assert result.passed is (severity is None)
    if severity is not None:
        assert result.severity == severity
        assert result.words.endswith("docs/labels.md has more.")


def test_of_many_labelers_a_few_are_named() -> None:
    parked = [difference(replace(it, state="parked"), None, 60.0) for it in numbered(9)]
    words = keeps_up_verdict(parked, None, Settings()).words
    assert "did:plc:004" in words and "did:plc:005" not in words and "and 4 more" in words


def test_switched_off_nothing_of_the_past_is_wrong() -> None:
    result = keeps_up_verdict([difference(PARKED, None, 60.0)], None, Settings(labelers=()))
    assert result.passed and "APPVIEW_LABELERS=none" in result.words
