"""The streams of labelers. Label: the labeler's DID."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline.operations.metrics.family import Family, Values, counter, gauge
from appview_pipeline.operations.reading import Reading
from appview_pipeline.store.label_reports import STATES, LabelerReport


def _each(
    value: Callable[[LabelerReport], float | int | None], *, read_only: bool = True
) -> Callable[[Reading], Values]:
    """A value of each labeler that is read, or (not `read_only`) that was."""

    def values(reading: Reading) -> Values:
        for labeler in reading.report.labelers if reading.report is not None else ():
            if labeler.is_wanted or not read_only:
                yield (labeler.did,), value(labeler)

    return values


def _states(reading: Reading) -> Values:
    if reading.report is not None:
        for state in STATES:
            yield (state,), sum(it.state == state for it in reading.report.labelers if it.is_wanted)


def _rejected(reading: Reading) -> Values:
    for labeler in reading.report.labelers if reading.report is not None else ():
        for kind, count in labeler.rejected_by_kind.items():
            yield (labeler.did, kind), count


def _running(reading: Reading) -> Values:
    return () if reading.report is None else [((), reading.report.is_reading_labels)]


FAMILIES: tuple[Family, ...] = (
    gauge("appview_label_process_running", "1: a label process is at work; 0: none is.", "", _running),
    gauge("appview_labelers", "Labelers that are read, by state.", "state", _states),
    gauge(
        "appview_labeler_lag_seconds",
        "How far behind a labeler's labels are.",
        "labeler",
        _each(lambda it: it.lag_seconds),
    ),
    gauge(
        "appview_labeler_labels_in_effect",
        "Labels of it that are neither negated nor expired.",
        "labeler",
        _each(lambda it: it.in_effect, read_only=False),
    ),
    counter("appview_labeler_frames", "Frames of it applied.", "labeler", _each(lambda it: it.frames, read_only=False)),
    counter(
        "appview_labeler_labels",
        "Valid labels and negations in them.",
        "labeler",
        _each(lambda it: it.labels, read_only=False),
    ),
    counter(
        "appview_labeler_changes",
        "Those that changed what is in effect.",
        "labeler",
        _each(lambda it: it.changed, read_only=False),
    ),
    counter("appview_labeler_rejected", "Labels and frames of it that were rejected.", "labeler kind", _rejected),
)
