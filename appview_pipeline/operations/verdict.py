"""What a check says: passed or not, how bad that is, and what is, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport

Severity = Literal["warn", "error"]
REMEDIES = "docs/operations.md"
"""The page whose section "What to do" has a paragraph for each check."""


def what_to_do(name: str) -> str:
    """Where to read what to do about a check that fails."""
    return f"{REMEDIES}#{name}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says.

    `asset`: key of the asset whose check it is. `severity`: of a failure; it may be worse than the check
    declares. `words`: one or two sentences: what is, in numbers, and what the limit is. `numbers`: for plots and
    monitors, each with its unit in its name. `remedy`: anchor in docs/operations.md.
    """

    name: str
    asset: str
    passed: bool
    severity: Severity
    words: str
    numbers: Mapping[str, float]

    @property
    def remedy(self) -> str:
        """The anchor of the paragraph that says what to do: the name."""
        return self.name

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "name": self.name,
            "asset": self.asset,
            "passed": self.passed,
            "severity": self.severity,
            "words": self.words,
            "numbers": dict(self.numbers),
            "what_to_do": self.link,
        }

    @property
    def link(self) -> str:
        """Where to read what to do."""
        return what_to_do(self.remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """Something that operators watch.

    `asset`: key of the asset whose check it is. `severity`: how bad a failure is. `setting`: the variable that holds
    its threshold; None: it has none. `description`: what holds while it passes, without the threshold's value.
    """

    name: str
    asset: str
    severity: Severity
    setting: str | None
    description: str

    def verdict(
        self, passed: bool, words: str, numbers: Mapping[str, float] | None = None, *, severity: Severity | None = None
    ) -> Verdict:
        """A verdict of this check; `severity` where it is another than the check's own."""
        return Verdict(
            name=self.name,
            asset=self.asset,
            passed=passed,
            severity=severity or self.severity,
            words=words,
            numbers={name: round(float(number), 4) for name, number in (numbers or {}).items()},
        )

    def of_process(self, trouble: str | None, well: str) -> Verdict:
        """The verdict of those who supervise a process: `trouble` keeps it from its work (None: nothing does, and
        `well` says so)."""
        return self.verdict(trouble is None, trouble or well)


@dataclass(frozen=True, slots=True)
class Condition(Check):
    """A check that is evaluated by a health report."""

    judge: Callable[[HealthReport, Settings], Verdict]
