"""What `serve` says of itself and of what it read."""

from __future__ import annotations

from appview_pipeline import __version__
from appview_pipeline.operations.metrics.family import Family, Values, counter, gauge
from appview_pipeline.operations.reading import Counts, Reading
from appview_pipeline.store import migrate


def _build(_: Reading) -> Values:
    yield (__version__, migrate.head()), 1


def _checks(reading: Reading) -> Values:
    for verdict in reading.verdicts:
        yield (verdict.name, verdict.asset, verdict.severity), verdict.passed


def families_of(counts: Counts) -> tuple[Family, ...]:
    """They are there while the database is away, too; `appview_check_passed` apart."""
    return (
        gauge(
            "appview_up",
            "1: the database was read; 0: it is away, or its schema is not this code's, and what is read from it is "
            "missing.",
            "",
            lambda reading: [((), reading.obstacle is None)],
        ),
        gauge(
            "appview_build_info",
            "Versions of this program and of its schema; 1.",
            "version schema",
            _build,
        ),
        gauge(
            "appview_read_duration_seconds",
            "Seconds that the database was last read for.",
            "",
            lambda reading: [((), reading.seconds)],
        ),
        counter(
            "appview_reads",
            "How often the database was read, since `serve` began.",
            "",
            lambda _: [((), counts.readings)],
        ),
        counter("appview_read_failures", "How often that failed.", "", lambda _: [((), counts.failures)]),
        gauge(
            "appview_check_passed",
            "1: the check passes; 0: it does not. Its paragraph in operations.md says what to do.",
            "check asset severity",
            _checks,
        ),
    )
