"""A mutant: a small defect put into the product, which a test has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A defect, as text of one file that is replaced, and the promise that it breaks."""

    name: str
    """Lower case, with hyphens; says what the defect does."""
    file: str
    """Relative to the checkout."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    promise: str
    """One sentence: what holds without the defect."""
    documented: str
    """Where the promise is made: a file of the checkout, and a heading in it (`docs/gaps.md#closing`)."""
    tests: tuple[str, ...]
    """Test functions that have to notice it, as pytest names them; few and quick. Paths begin below
    `appview_pipeline_tests/`."""

    @property
    def part(self) -> str:
        """The package of the product, or `sql`, or the name of a module at the top of the product."""
        first, *more = Path(self.file).parts
        return Path(more[0]).stem if first == "appview_pipeline" else first

    @property
    def test_ids(self) -> list[str]:
        """The tests, as arguments of pytest."""
        return [f"appview_pipeline_tests/{test}" for test in self.tests]


def mutated(mutant: Mutant, text: str) -> str:
    """The file's text with the defect. Raises ValueError where the old text does not occur exactly once."""
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has its text {count} times instead of once; update the mutant")
    return text.replace(mutant.old, mutant.new)
