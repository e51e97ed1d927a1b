"""What came of a labeler's stream in some time: differences of the totals in `pipeline.labeler`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appview_pipeline.store.label_reports import LabelerReport


@dataclass(frozen=True)
class LabelerNews:
    """What came of a labeler's stream in `seconds`: `now` is how it is, the counts are what was added to its totals."""

    now: LabelerReport
    seconds: float
    frames: int
    labels: int
    changed: int
    repeated: int
    rejected: int
    rejected_by_kind: Mapping[str, int]

    @property
    def received(self) -> int:
        """Labels that came, rejected ones among them."""
        return self.labels + self.rejected


def difference(now: LabelerReport, before: LabelerReport | None, seconds: float) -> LabelerNews:
    """What was added to the totals of a labeler; all of them where it has none before, or has begun anew since."""
    if before is not None and (now.frames < before.frames or now.labels < before.labels):
        before = None
    kinds = before.rejected_by_kind if before else {}
    added = {kind: count - kinds.get(kind, 0) for kind, count in now.rejected_by_kind.items()}
    return LabelerNews(
        now=now,
        seconds=max(seconds, 1.0),
        frames=now.frames - (before.frames if before else 0),
        labels=now.labels - (before.labels if before else 0),
        changed=now.changed - (before.changed if before else 0),
        repeated=now.repeated - (before.repeated if before else 0),
        rejected=now.rejected - (before.rejected if before else 0),
        rejected_by_kind={kind: count for kind, count in added.items() if count},
    )
