"""The list of mutants keeps up with the product; the campaign tells the killed from those that survive."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from appview_pipeline_tests.mutants import campaign, table
from appview_pipeline_tests.mutants.checkout_copy import CheckoutCopy
from appview_pipeline_tests.mutants.every_mutant import MUTANTS
from appview_pipeline_tests.mutants.mutant import Mutant, mutated
from appview_pipeline_tests.support.checkout import CHECKOUT

TESTS = CHECKOUT / "appview_pipeline_tests"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies_and_what_it_names_is_there(mutant: Mutant) -> None:
    text = (CHECKOUT / mutant.file).read_text(encoding="utf-8")
    changed = mutated(mutant, text)
    assert changed != text
    if mutant.file.endswith(".py"):
        ast.parse(changed)
    assert re.fullmatch(r"[a-z0-9-]{3,60}", mutant.name)
    assert mutant.promise.endswith(".") and "|" not in mutant.promise
    page, _, anchor = mutant.documented.partition("#")
    assert not anchor or anchor in anchors(CHECKOUT / page), f"{page} has no heading {anchor}"
    for test in mutant.tests:
        path, _, function = test.partition("::")
        assert not function or function in functions(TESTS / path), f"there is no test {test}"
        assert (TESTS / path).is_file()


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def functions(path: Path) -> set[str]:
    """The test functions of a module."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(it.name for it in MUTANTS).items() if count > 1] == []


AT_LEAST = {
    "sql": 40,
    "protocol": 12,
    "network": 10,
    "store": 10,
    "leases": 4,
    "indexing": 10,
    "identity": 10,
    "ingest": 10,
    "backfill": 10,
    "labels": 10,
    "serving": 0,
    "operations": 8,
    "defs": 6,
}
"""So many mutants each part has at least."""


def test_every_part_of_the_product_has_mutants() -> None:
    counts = Counter(it.part for it in MUTANTS)
    assert {part: counts[part] for part in AT_LEAST if counts[part] < AT_LEAST[part]} == {}
    packages = {path.parent.name for path in (CHECKOUT / "appview_pipeline").glob("*/__init__.py")}
    assert packages <= AT_LEAST.keys(), "a new package needs mutants"


def test_the_page_lists_them_all() -> None:
    rows = table.rows_of(table.DOCUMENT.read_text(encoding="utf-8"))
    assert list(rows) == [it.name for part in sorted({it.part for it in MUTANTS}) for it in MUTANTS if it.part == part]
    assert {it.name: it.promise in rows[it.name] for it in MUTANTS} == dict.fromkeys(rows, True)


def made_up(old: str, new: str) -> Mutant:
    return Mutant(
        name="made-up",
        file="appview_pipeline/protocol/cid.py",
        old=old,
        new=new,
        promise="A CID is written as text.",
        documented="docs/architecture.md",
        tests=("protocol/test_blocks.py::test_cid_text",),
    )


def test_the_campaign_tells_what_became_of_a_mutant(tmp_path: Path) -> None:
    copy = CheckoutCopy(tmp_path / "copy")
    result = campaign.attempt(copy, made_up("LENGTH = 36", "LENGTH = 35"))
    assert (result.fate, result.killed_by) == ("killed", "protocol/test_blocks.py::test_cid_text")
    # That no test notices this one shows as well that the defect before it is gone from the copy.
    assert campaign.attempt(copy, made_up("LENGTH = 36", "LENGTH = 30 + 6")).fate == "survived"
    assert campaign.attempt(copy, made_up("LENGTH = 36", "LENGTH = thirty_six")).fate == "does not run"
    assert campaign.attempt(copy, made_up("LENGTH = 36", "LENGTH = 36"), seconds=0.2).fate == "timed out"
    with pytest.raises(ValueError, match="0 times"):
        campaign.attempt(copy, made_up("LENGTH = 63", "LENGTH = 36"))
