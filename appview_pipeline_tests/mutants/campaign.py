"""Puts each defect into a copy of the checkout, and runs the tests that have to notice it."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from appview_pipeline_tests.mutants.checkout_copy import CheckoutCopy
from appview_pipeline_tests.mutants.mutant import Mutant

MUTANT_SECONDS = 180.0
"""The longest that the tests of one mutant may take; they need a few seconds on a quiet machine."""
SOUND_SECONDS = 1_800.0
"""The longest that all chosen tests together may take without a defect."""

_BROKEN = re.compile(
    r"SyntaxError|IndentationError|UndefinedColumn|UndefinedTable|NameError|ImportError|IndeterminateDat"
)
"""What a defect raises that is no defect but a program that can't run: any test notices it, so it shows nothing."""

Fate = Literal["killed", "survived", "timed out", "does not run", "not tried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    fate: Fate
    killed_by: str
    """The test that failed, as pytest names it, below `appview_pipeline_tests/`; empty where none did."""
    seconds: float
    words: str
    """The first line of what the test said."""


def run(
    mutants: Sequence[Mutant],
    folder: Path,
    told: Callable[[Result], None],
    *,
    jobs: int,
    seconds: float = MUTANT_SECONDS,
    tests_pass: bool = False,
) -> list[Result]:
    """Tries all mutants, `jobs` at a time, each in one of as many copies of the checkout below `folder`.

    Returns the results in the order of `mutants`; `told` gets each one as it comes. A mutant is not tried where a test
    of its fails without any defect, or where all of them are skipped; with `tests_pass` that is not looked at. Raises
    ValueError where a mutant's text is not in its file, and where the tests do not run at all.
    """
    copies = [CheckoutCopy(folder / f"copy-{number}") for number in range(jobs)]
    for mutant in mutants:
        with copies[0].with_defect(mutant):
            pass
    unsound = {} if tests_pass else _unsound(copies[0], mutants, folder / "sound.xml")
    free: queue.SimpleQueue[CheckoutCopy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> Result:
        if (reason := unsound.get(mutant.name)) is not None:
            result = Result(mutant=mutant, fate="not tried", killed_by="", seconds=0.0, words=reason)
        else:
            copy = free.get()
            try:
                result = attempt(copy, mutant, seconds)
            finally:
                free.put(copy)
        told(result)
        return result

    with ThreadPoolExecutor(jobs) as threads:
        try:
            return list(threads.map(one, mutants))
        except BaseException:  # Ctrl-C, say: those at work end first
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def attempt(copy: CheckoutCopy, mutant: Mutant, seconds: float = MUTANT_SECONDS) -> Result:
    """Runs the tests of one mutant with its defect, up to the first that fails."""
    report = copy.folder.parent / f"{copy.folder.name}.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    with copy.with_defect(mutant):
        code = copy.run_tests(mutant.test_ids, report, seconds, "-x")
    fate, killed_by, words = _fate(code, report)
    return Result(
        mutant=mutant, fate=fate, killed_by=killed_by, seconds=round(time.monotonic() - began, 1), words=words
    )


def _fate(code: int | None, report: Path) -> tuple[Fate, str, str]:
    if code is None:
        return "timed out", "", ""
    if code == 0:
        return "survived", "", ""
    outcomes = list(_outcomes(report)) if report.exists() else []
    failed = [(test, words) for test, outcome, words in outcomes if outcome == "failure"]
    if code != 1 or not failed:
        return "does not run", "", next((words for _, outcome, words in outcomes if outcome == "error"), f"exit {code}")
    test, words = failed[0]
    test = test.partition("[")[0]  # parameters may hold anything
    return ("does not run" if _BROKEN.search(words) else "killed"), test, words


def _outcomes(report: Path) -> Iterator[tuple[str, str, str]]:
    """Test, outcome (passed, failure, error, skipped) and its message's first line, of a JUnit report."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        *folders, last = case.get("classname", "").split(".")
        test = f"{'/'.join([*folders, last]).removeprefix('appview_pipeline_tests/')}.py::{case.get('name', '')}"
        found = next((it for it in case if it.tag in ("failure", "error", "skipped")), None)
        message = "" if found is None else (found.get("message") or "")
        yield test, "passed" if found is None else found.tag, message.strip().partition("\n")[0]


def _unsound(copy: CheckoutCopy, mutants: Sequence[Mutant], report: Path) -> dict[str, str]:
    """The mutants of which a test fails without any defect, or no test runs, and why."""
    tests = sorted({test for mutant in mutants for test in mutant.test_ids})
    code = copy.run_tests(tests, report, SOUND_SECONDS)
    if code not in (0, 1) or not report.exists():
        raise ValueError(f"without any defect the tests do not run (pytest: {code}): {' '.join(tests)}")
    outcomes = list(_outcomes(report))
    found = {}
    for mutant in mutants:
        own = [it for it in outcomes if any(_covers(test, it[0]) for test in mutant.tests)]
        failed = [f"{test}: {words}" for test, outcome, words in own if outcome in ("failure", "error")]
        if failed:
            found[mutant.name] = f"without the defect it fails, too: {failed[0]}"
        elif not any(outcome == "passed" for _, outcome, _ in own):
            found[mutant.name] = "all its tests are skipped"
    return found


def _covers(named: str, ran: str) -> bool:
    """Whether a test that a mutant names (a function, or a file) is the one that ran."""
    ran = ran.partition("[")[0]
    return ran == named or ran.startswith(f"{named}::")
