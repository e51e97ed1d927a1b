"""Conditions of labels: the label process works, and the labelers keep up and send what can be verified."""

from __future__ import annotations

import math
from collections.abc import Sequence

from appview_pipeline.operations.labeler_news import LabelerNews, difference
from appview_pipeline.operations.verdict import Condition, Verdict
from appview_pipeline.operations.words import duration
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport
from appview_pipeline.store.label_reports import CONNECTED, PARKED, LabelerReport

ASSET = "labels"
FEW_LABELS = 20
"""Fewer labels say nothing about a share."""
NAMED_LABELERS = 5
LATELY_SECONDS = 3_600.0
"""What is said of a longer time is said of all that ever came."""

NONE_READ = "APPVIEW_LABELERS=none: no labelers are read."
NO_PROCESS = "no label process runs: the ticks of the label sensor say why"


def is_switched_off(settings: Settings) -> bool:
    """Whether no labeler is to be read."""
    return not settings.labelers


def needs_process(settings: Settings) -> bool:
    """Whether there is something for the label process to do: labels made here expire, too."""
    return bool(settings.labelers) or settings.labeler_did is not None


def reading_verdict(trouble: str | None, settings: Settings) -> Verdict:
    """Whether the label process does its work. `trouble`: what keeps it from it, and what to do about that."""
    well = NONE_READ if is_switched_off(settings) else "The label process runs, and reaches the database."
    return READING_LABELS.of_process(trouble, well)


def _reading_labels(report: HealthReport, settings: Settings) -> Verdict:
    is_missing = needs_process(settings) and not report.is_reading_labels
    return reading_verdict(f"{NO_PROCESS[:1].upper()}{NO_PROCESS[1:]}." if is_missing else None, settings)


READING_LABELS = Condition(
    name="reading_labels",
    asset=ASSET,
    severity="error",
    setting=None,
    description=(
        "The label process runs, and reaches the database. Where it does not, the result says what to do. The label "
        "sensor evaluates it every minute, and at once when something changes; others see only whether there is a "
        "process that holds the lock."
    ),
    judge=_reading_labels,
)


def keeps_up_verdict(news: Sequence[LabelerNews], trouble: str | None, settings: Settings) -> Verdict:
    """Whether the labelers that are read are connected, caught up, and send labels that can be verified.

    `news`: what came of each lately. `trouble`: what keeps the label process from its work, if anything. Where none is
    to be read, it passes, whatever the database says of the time before.
    """
    is_off = is_switched_off(settings)
    read = [it for it in news if it.now.is_wanted and not is_off]
    parked = [it.now for it in read if it.now.state == PARKED]
    behind = [it.now for it in read if it.now.state != PARKED and _is_behind(it.now, settings)]
    rejected = [it for it in read if _is_rejected(it, settings)]
    missing = [it.now for it in read if (it.now.gap_seconds or 0.0) > settings.labels_gap_warning_seconds]
    numbers: dict[str, float] = {
        "labelers": len(read),
        "parked": len(parked),
        "behind": len(behind),
        "largest_lag_seconds": max((it.now.lag_seconds for it in read if it.now.state != PARKED), default=0.0),
        "rejected_share": _share(sum(it.rejected for it in read), sum(it.received for it in read)),
    }
    is_down = not is_off and (trouble is not None or (bool(read) and len(parked) == len(read)))
    return LABELERS_KEEP_UP.verdict(
        not (is_down or parked or behind or rejected or missing),
        NONE_READ if is_off else _in_words(len(read), parked, behind, rejected, missing, trouble),
        numbers,
        severity="error" if is_down else "warn",
    )


def _labelers_keep_up(report: HealthReport, settings: Settings) -> Verdict:
    """By the totals of the labelers, since a report knows no earlier ones."""
    is_missing = needs_process(settings) and not report.is_reading_labels
    news = [difference(it, None, math.inf) for it in report.labelers]
    return keeps_up_verdict(news, NO_PROCESS if is_missing else None, settings)


LABELERS_KEEP_UP = Condition(
    name="labelers_keep_up",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_LABELS_WARNING_SECONDS",
    description=(
        "Every labeler that is read is connected, everything that it sent is applied soon, and few of its labels of "
        "the last half hour are rejected (APPVIEW_LABELS_WARNING_SHARE). The result names the others. Where the label "
        "sensor does not evaluate it, it goes by all labels that ever came. It fails where no labels are read at all."
    ),
    judge=_labelers_keep_up,
)

CONDITIONS = (READING_LABELS, LABELERS_KEEP_UP)


def _is_behind(it: LabelerReport, settings: Settings) -> bool:
    """Whether a labeler's newest labels may be missing for longer than a moment."""
    if it.state == CONNECTED and it.silent_seconds is None:
        return False  # it may have nothing to say
    return not (it.state == CONNECTED and it.is_caught_up) and it.lag_seconds > settings.labels_warning_seconds


def _is_rejected(it: LabelerNews, settings: Settings) -> bool:
    """Whether too many of a labeler's labels are rejected."""
    return it.received >= FEW_LABELS and _share(it.rejected, it.received) > settings.labels_warning_share


def state_in_words(it: LabelerReport) -> str:
    """How a labeler is: "connected, all applied", "parked for 3.0 h: its DID document has no key for labels"."""
    if not it.is_wanted:
        return "not read any more"
    if it.state == CONNECTED:
        if it.silent_seconds is None:
            return "connected; it has sent nothing yet"
        if it.is_caught_up:
            return "connected; everything that it sent is applied"
        return f"connected; its newest label that is applied is {duration(it.lag_seconds)} old"
    words = {"new": "not tried yet"}.get(it.state, f"{it.state} for {duration(it.state_seconds)}")
    return f"{words}: {it.reason}" if it.reason else words


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _in_words(
    read: int,
    parked: Sequence[LabelerReport],
    behind: Sequence[LabelerReport],
    rejected: Sequence[LabelerNews],
    missing: Sequence[LabelerReport],
    trouble: str | None,
) -> str:
    if not read and trouble is None:
        return "No labelers are read yet."
    sentences = []
    if trouble is not None:
        sentences.append(f"No labels are read: {trouble.rstrip('.')}.")
    if parked:
        named = _named([f"{it.name}: {_bare(it.reason)}" for it in parked])
        sentences.append(
            f"Of {read:,} labelers {len(parked):,} parked: {named}. Each is tried again every hour, and when its DID "
            "document changes; take one that is gone out of APPVIEW_LABELERS."
        )
    if behind:
        sentences.append(f"Of {read:,} labelers {len(behind):,} not caught up: {_named([*map(_behind, behind)])}.")
    if rejected:
        sentences.append(
            f"Rejected: {_named([*map(_rejections, rejected)])}. `appview-pipeline dead-letters --kind "
            f"{_most_frequent(rejected)}` shows them with the reasons; the job retry_dead_letters tries them again."
        )
    if missing:
        named = _named([f"{it.name}, for {duration(it.gap_seconds or 0.0)}" for it in missing])
        sentences.append(
            f"Labels may be missing that their servers did not keep: {named}. They are read from the beginning again; "
            "the gap closes once they have caught up."
        )
    if not sentences:
        return (
            f"Of {read:,} labelers that are read all are caught up."
            if read > 1
            else "The one labeler that is read is caught up."
        )
    return " ".join([*sentences, "docs/labels.md has more."])


def _named(labelers: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(labelers) - NAMED_LABELERS
    return "; ".join(labelers[:NAMED_LABELERS]) + (f"; and {more:,} more" if more > 0 else "")


def _bare(reason: str | None) -> str:
    """A reason as a part of a sentence."""
    return (reason or "no reason is known").rstrip(".")


def _behind(it: LabelerReport) -> str:
    if it.state == CONNECTED:
        return f"{it.name}: its newest label that is applied is {duration(it.lag_seconds)} old"
    return f"{it.name}: {_bare(state_in_words(it))}"


def _rejections(it: LabelerNews) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(it.rejected_by_kind.items(), key=lambda it: -it[1]))
    lately = f"in {duration(it.seconds)}" if it.seconds < LATELY_SECONDS else "so far"
    return f"{it.rejected:,} of {it.received:,} labels of {it.now.name} {lately} ({kinds or 'of unknown kind'})"


def _most_frequent(rejected: Sequence[LabelerNews]) -> str:
    counts: dict[str, int] = {}
    for it in rejected:
        for kind, count in it.rejected_by_kind.items():
            counts[kind] = counts.get(kind, 0) + count
    return max(counts, key=lambda kind: counts[kind], default="label-signature")
