"""What a run says of the repositories that it fetched: log lines, and the metadata of its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from appview_pipeline.backfill.progress import WorkSummary
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.operations.words import duration

PROGRESS_SECONDS = 10.0
"""Between two log lines about work that goes on."""
SHOWN = 50
"""Failures that a run's metadata names."""

Metadata = dict[str, int | float | str | dg.MetadataValue]


class ProgressLines:
    """Writes a line into a run's log every few seconds: to be called as often as there is progress."""

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
        self._log = context.log
        self._say = EverySeconds(PROGRESS_SECONDS)

    def __call__(self, so_far: WorkSummary) -> None:
        self._say(lambda: self._log.info(in_words(so_far)))


def in_words(done: WorkSummary) -> str:
    """One line: how much was done, how fast, and what is left."""
    repositories = "repository" if done.repositories == 1 else "repositories"
    line = (
        f"{done.repositories:,} {repositories} with {done.records:,} records ({done.bytes / 1e6:,.1f} MB) in "
        f"{done.seconds:,.0f} s, {done.record_rate:,.0f} records/s; {done.created:,} records created, "
        f"{done.updated:,} updated, {done.deleted:,} deleted"
    )
    if done.failed:
        line += f"; {done.failed:,} attempts failed"
    if done.left:
        line += f"; {done.left:,} {'repository' if done.left == 1 else 'repositories'} left"
        if (eta := done.eta_seconds) is not None:
            line += f", about {duration(eta)} to go"
    return line


def metadata_of(done: WorkSummary) -> Metadata:
    """What a run did, as numbers that plot; and its failures, by kind and the last ones with their reasons."""
    metadata: Metadata = {
        "repositories": done.repositories,
        "records": done.records,
        "records_created": done.created,
        "records_updated": done.updated,
        "records_deleted": done.deleted,
        "megabytes": round(done.bytes / 1e6, 3),
        "records_per_second": round(done.record_rate, 1),
        "left": done.left,
        "failed": done.failed,
    }
    details: dict[str, object] = {
        "seconds": round(done.seconds, 1),
        "repositories_per_second": round(done.rate, 2),
        "records_refused": done.refused,
        "given_up_for_now": done.parked,
        "ended": done.ended,
    }
    if (eta := done.eta_seconds) is not None and done.left:
        details["left_for"] = duration(eta)
    metadata["details"] = dg.MetadataValue.json(details)
    if done.failures:
        metadata["failures_by_kind"] = count_table("failure", "attempts", done.failures)
    if done.reasons:
        metadata["failures"] = reason_table(done.reasons)
    return metadata


def count_table(subject: str, number: str, counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Counts by name, the largest first."""
    return dg.MetadataValue.table(
        [dg.TableRecord({subject: name, number: n}) for name, n in sorted(counts.items(), key=lambda it: -it[1])],
        dg.TableSchema([dg.TableColumn(subject, "string"), dg.TableColumn(number, "int")]),
    )


def reason_table(reasons: Mapping[str, str]) -> dg.TableMetadataValue:
    """Why repositories could not be fetched."""
    return dg.MetadataValue.table(
        [dg.TableRecord({"repository": did, "reason": reason}) for did, reason in list(reasons.items())[:SHOWN]],
        dg.TableSchema([dg.TableColumn("repository", "string"), dg.TableColumn("reason", "string")]),
    )


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names in a sentence, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
