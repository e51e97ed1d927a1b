"""What a condition of health says: passed or not, how bad that is, and what is, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport

Severity = Literal["warn", "error"]
REMEDIES = "docs/operations.md"
"""The page whose section "What to do" has a paragraph for each condition."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a condition says of a health report.

    `asset`: key of the asset whose check it is. `severity`: of a failure; a condition may make it worse than it
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

    @property
    def link(self) -> str:
        """Where to read what to do."""
        return f"{REMEDIES}#{self.remedy}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of health that operators watch.

    `asset`: key of the asset whose check it is. `severity`: how bad a failure is. `setting`: the variable that holds
    its threshold; None: it has none. `description`: what holds while it passes, without the threshold's value.
    """

    name: str
    asset: str
    severity: Severity
    setting: str | None
    description: str
    judge: Callable[[HealthReport, Settings], Verdict]
