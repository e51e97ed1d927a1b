"""Whether the pipeline is ready: the parts that `/readyz` answers for, each with a sentence (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appview_pipeline.operations.reading import Reading
from appview_pipeline.operations.stream_conditions import CONNECTED, KEEPS_UP
from appview_pipeline.operations.verdict import Condition

NOTHING_READ = "It can't be told while the database can't be read."


@dataclass(frozen=True)
class Part:
    """A part of the pipeline: whether it is healthy, and a sentence for people."""

    is_healthy: bool
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; `operations/probe.py` reads it."""
        return {"is_healthy": self.is_healthy, "sentence": self.sentence}


def parts_of(reading: Reading) -> dict[str, Part]:
    """Every part, by name."""
    return {name: judge(reading) for name, judge in PARTS.items()}


def together(parts: Mapping[str, Part]) -> Part:
    """All of these parts: the sentences of those that are not healthy."""
    wrong = {name: part for name, part in parts.items() if not part.is_healthy}
    if not wrong:
        return Part(True, f"Ready: {', '.join(parts)}." if parts else "Ready.")
    sentences = dict.fromkeys(part.sentence for part in wrong.values() if part.sentence != NOTHING_READ)
    return Part(False, f"Not ready: {', '.join(wrong)}. {' '.join(sentences)}")


def _database(reading: Reading) -> Part:
    if not reading.is_reached:
        return Part(False, reading.obstacle or "The database can't be reached.")
    if reading.obstacle is not None and reading.has_schema:
        return Part(False, reading.obstacle)
    return Part(True, "The database answers.")


def _schema(reading: Reading) -> Part:
    if not reading.is_reached:
        return Part(False, NOTHING_READ)
    if not reading.has_schema:
        return Part(False, reading.obstacle or "The schema is not this code's.")
    return Part(True, "The schema is this code's.")


def _passes(condition: Condition) -> Callable[[Reading], Part]:
    """A part that is healthy while a condition passes, which says it in its words."""

    def part(reading: Reading) -> Part:
        if reading.report is None:
            return Part(False, NOTHING_READ)
        (verdict,) = (it for it in reading.verdicts if it.name == condition.name)
        return Part(verdict.passed, verdict.words)

    return part


PARTS: Mapping[str, Callable[[Reading], Part]] = {
    "database": _database,
    "schema": _schema,
    "consumer": _passes(CONNECTED),
    "stream": _passes(KEEPS_UP),
}
"""What makes each part healthy."""
