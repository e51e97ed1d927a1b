"""The checks on labels: does the label process work, and do the labelers keep up.

The label sensor evaluates them as it goes; a person can run them from the UI.
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

import math
from collections.abc import Sequence

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import duration
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.labels.asset import LABELS
from appview_pipeline.defs.labels.events import state_in_words
from appview_pipeline.defs.labels.news import WINDOW_SECONDS, LabelerNews, difference
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.label_reports import CONNECTED, PARKED, LabelerReport, is_lock_held, labeler_reports
from appview_pipeline.store.labelers import LOCK

READING_LABELS = "reading_labels"
LABELERS_KEEP_UP = "labelers_keep_up"

# Beyond these the check warns.
LAG_WARNING_SECONDS = 120.0
REJECTED_SHARE = 0.05
GAP_WARNING_SECONDS = 172_800.0
"""Because of gaps a stream is read again once a day at most (`backoff.LABELER_REREAD_SECONDS`), and that takes time."""
FEW_LABELS = 20
"""Fewer labels say nothing about a share."""
NAMED_LABELERS = 5

NONE_READ = "APPVIEW_LABELERS=none: no labelers are read."


def is_switched_off(chosen: Settings) -> bool:
    """Whether no labeler is to be read."""
    return not chosen.labelers


def needs_process(chosen: Settings) -> bool:
    """Whether there is something for the label process to do: labels made here expire, too."""
    return bool(chosen.labelers) or chosen.labeler_did is not None


def reading_result(trouble: str | None, is_off: bool = False) -> dg.AssetCheckResult:
    """Whether the label process does its work. `trouble`: what keeps it from it, and what to do about that."""
    return dg.AssetCheckResult(
        passed=trouble is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=trouble or (NONE_READ if is_off else "The label process runs, and reaches the database."),
        check_name=READING_LABELS,
        asset_key=LABELS,
    )


def keeps_up_result(
    news: Sequence[LabelerNews], trouble: str | None = None, is_off: bool = False
) -> dg.AssetCheckResult:
    """Whether the labelers that are read are connected, caught up, and send labels that can be verified.

    `news`: what came of each lately. `trouble`: what keeps the label process from its work, if anything. `is_off`: none
    is to be read, whatever the database says of the time before.
    """
    read = [it for it in news if it.now.is_wanted and not is_off]
    parked = [it.now for it in read if it.now.state == PARKED]
    behind = [it.now for it in read if it.now.state != PARKED and is_behind(it.now)]
    rejected = [it for it in read if is_rejected(it)]
    missing = [it.now for it in read if (it.now.gap_seconds or 0.0) > GAP_WARNING_SECONDS]
    lag = max((it.now.lag_seconds for it in read if it.now.state != PARKED), default=0.0)
    share = _share(sum(it.rejected for it in read), sum(it.received for it in read))
    metadata: dict[str, int | float] = {
        "labelers": len(read),
        "parked": len(parked),
        "behind": len(behind),
        "largest_lag_seconds": round(lag, 1),
        "rejected_share": round(share, 4),
    }
    is_down = not is_off and (trouble is not None or (bool(read) and len(parked) == len(read)))
    return dg.AssetCheckResult(
        passed=not (is_down or parked or behind or rejected or missing),
        severity=dg.AssetCheckSeverity.ERROR if is_down else dg.AssetCheckSeverity.WARN,
        description=NONE_READ if is_off else _in_words(len(read), parked, behind, rejected, missing, trouble),
        metadata=metadata,
        check_name=LABELERS_KEEP_UP,
        asset_key=LABELS,
    )


def is_behind(it: LabelerReport) -> bool:
    """Whether a labeler's newest labels may be missing for longer than a moment."""
    if it.state == CONNECTED and it.silent_seconds is None:
        return False  # it may have nothing to say
    return not (it.state == CONNECTED and it.is_caught_up) and it.lag_seconds > LAG_WARNING_SECONDS


def is_rejected(it: LabelerNews) -> bool:
    """Whether too many of a labeler's labels are rejected."""
    return it.received >= FEW_LABELS and _share(it.rejected, it.received) > REJECTED_SHARE


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
    return " ".join([*sentences, "docs/labels.md says what to do."])


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
    lately = f"in {duration(it.seconds)}" if it.seconds < 2 * WINDOW_SECONDS else "so far"
    return f"{it.rejected:,} of {it.received:,} labels of {it.now.name} {lately} ({kinds or 'of unknown kind'})"


def _most_frequent(rejected: Sequence[LabelerNews]) -> str:
    counts: dict[str, int] = {}
    for it in rejected:
        for kind, count in it.rejected_by_kind.items():
            counts[kind] = counts.get(kind, 0) + count
    return max(counts, key=lambda kind: counts[kind], default="label-signature")


def process_trouble(index: IndexDatabase) -> tuple[str | None, list[LabelerReport]]:
    """What keeps labels from being read as far as a run can see, and the labelers: the process is a child of the code
    server, but its lock shows in the database."""
    with index.open().connect("reader") as connection:
        found = labeler_reports(connection)
        if not needs_process(settings.load()) or is_lock_held(connection, LOCK):
            return None, found
    return "no label process runs: the ticks of the label sensor say why", found


@dg.asset_check(
    asset=LABELS,
    name=READING_LABELS,
    description=(
        "The label process runs, and reaches the database. Where it does not, the result says what to do. The label "
        "sensor evaluates it every minute, and at once when something changes; run by hand it sees only whether there "
        "is a process that holds the lock."
    ),
)
def reading_labels(index: IndexDatabase) -> dg.AssetCheckResult:
    """Whether a process holds the lock: a run can't see the process itself."""
    try:
        trouble, _ = process_trouble(index)
    except OperatorError as error:
        return reading_result(str(error))
    return reading_result(trouble and f"{trouble[:1].upper()}{trouble[1:]}.", is_switched_off(settings.load()))


@dg.asset_check(
    asset=LABELS,
    name=LABELERS_KEEP_UP,
    description=(
        f"Every labeler that is read is connected, and everything that it sent is applied within "
        f"{LAG_WARNING_SECONDS:.0f} s; at most {REJECTED_SHARE:.0%} of its labels of the last half hour are rejected. "
        "The result names the others. Run by hand, it goes by all labels that ever came."
    ),
)
def labelers_keep_up(index: IndexDatabase) -> dg.AssetCheckResult:
    """How the labelers are, by their totals."""
    trouble, found = process_trouble(index)
    news = [difference(it, None, math.inf) for it in found]
    return keeps_up_result(news, trouble, is_switched_off(settings.load()))
