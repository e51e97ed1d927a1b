"""Whether the pipeline is ready: the parts that `/readyz` answers for, each with a sentence (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appview_pipeline.operations.reading import Reading
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport, StreamHealth

NOTHING_READ = "It can't be told while the database can't be read."


@dataclass(frozen=True)
class Part:
    """A part of the pipeline: whether it is healthy, and a sentence for people."""

    is_healthy: bool
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; `operations/probe.py` reads it."""
        return {"is_healthy": self.is_healthy, "sentence": self.sentence}


def parts_of(reading: Reading, settings: Settings) -> dict[str, Part]:
    """Every part, by name."""
    return {name: judge(reading, settings) for name, judge in PARTS.items()}


def together(parts: Mapping[str, Part]) -> Part:
    """All of these parts: the sentences of those that are not healthy."""
    wrong = {name: part for name, part in parts.items() if not part.is_healthy}
    if not wrong:
        return Part(True, f"Ready: {', '.join(parts)}." if parts else "Ready.")
    sentences = dict.fromkeys(part.sentence for part in wrong.values() if part.sentence != NOTHING_READ)
    return Part(False, f"Not ready: {', '.join(wrong)}. {' '.join(sentences)}")


def _database(reading: Reading, _: Settings) -> Part:
    if not reading.is_reached:
        return Part(False, reading.obstacle or "The database can't be reached.")
    if reading.obstacle is not None and reading.has_schema:
        return Part(False, reading.obstacle)
    return Part(True, "The database answers.")


def _schema(reading: Reading, _: Settings) -> Part:
    if not reading.is_reached:
        return Part(False, NOTHING_READ)
    if not reading.has_schema:
        return Part(False, reading.obstacle or "The schema is not this code's.")
    return Part(True, "The schema is this code's.")


def _of_streams(
    judge: Callable[[StreamHealth, Settings], str | None], healthy: str
) -> Callable[[Reading, Settings], Part]:
    """A part that is healthy while `judge` has nothing to say of any stream in use."""

    def judge_all(reading: Reading, settings: Settings) -> Part:
        report: HealthReport | None = reading.report
        if report is None:
            return Part(False, NOTHING_READ)
        if not report.in_use:
            return Part(False, f"No consumer has begun to read {settings.relay_url} yet.")
        wrong = [sentence for stream in report.in_use if (sentence := judge(stream, settings)) is not None]
        return Part(not wrong, " ".join(wrong) or healthy)

    return judge_all


def _name(stream: StreamHealth) -> str:
    return stream.relay if stream.shard == "0/1" else f"{stream.relay} ({stream.shard})"


def _consumed(stream: StreamHealth, _: Settings) -> str | None:
    return None if stream.is_consumed else f"No consumer is at work on {_name(stream)}."


def _fresh(stream: StreamHealth, settings: Settings) -> str | None:
    if stream.idle_seconds > settings.silence_warning_seconds:
        return (
            f"Nothing has been applied of {_name(stream)} for {stream.idle_seconds:,.0f} s; the limit is "
            f"{settings.silence_warning_seconds:,.0f} s."
        )
    if stream.lag_seconds is not None and stream.lag_seconds > settings.lag_warning_seconds:
        return (
            f"{_name(stream)} is applied {stream.lag_seconds:,.0f} s late; the limit is "
            f"{settings.lag_warning_seconds:,.0f} s."
        )
    return None


PARTS: Mapping[str, Callable[[Reading, Settings], Part]] = {
    "database": _database,
    "schema": _schema,
    "consumer": _of_streams(_consumed, "A consumer is at work."),
    "stream": _of_streams(_fresh, "The stream is fresh."),
}
"""What makes each part healthy."""
