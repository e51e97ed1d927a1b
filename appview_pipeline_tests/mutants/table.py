"""The table of docs/mutants.md: each mutant, the promise that it breaks, the test that kills it."""

from __future__ import annotations

from collections.abc import Sequence

from appview_pipeline_tests.mutants.campaign import Result
from appview_pipeline_tests.mutants.mutant import Mutant
from appview_pipeline_tests.support.checkout import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "mutants.md"

_HEAD = """\
# Mutants

`python -m appview_pipeline_tests.mutants --write` writes this page ([testing.md](testing.md#mutants) says more). A
mutant is a small defect in the product. Each breaks one promise, and the test beside it fails because of that.
"""


def written(mutants: Sequence[Mutant], results: Sequence[Result]) -> str:
    """The document. For mutants without a result the test that killed them is the one that the document has already."""
    rows = rows_of(DOCUMENT.read_text(encoding="utf-8")) if DOCUMENT.exists() else {}
    tests = {name: row.removesuffix(" |").rpartition(" | ")[2] for name, row in rows.items()}
    tests |= {result.mutant.name: _test(result) for result in results}
    lines = [_HEAD]
    for part in sorted({mutant.part for mutant in mutants}):
        lines += [f"## `{part}`", "", "| mutant | the promise that it breaks | killed by |", "|---|---|---|"]
        lines += [_row(it, tests.get(it.name, "not tried yet")) for it in mutants if it.part == part]
        lines.append("")
    return "\n".join(lines)


def rows_of(text: str) -> dict[str, str]:
    """The rows of a document by the name of their mutant."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {row.removeprefix("| `").partition("`")[0]: row for row in rows}


def _row(mutant: Mutant, test: str) -> str:
    # The document is in docs/, and links are relative to it.
    name, heading, anchor = mutant.documented.partition("#")
    target = name.removeprefix("docs/") if name.startswith("docs/") else f"../{name}"
    return f"| `{mutant.name}` | {mutant.promise} ([{name.rpartition('/')[2]}]({target}{heading}{anchor})) | {test} |"


def _test(result: Result) -> str:
    if result.fate != "killed":
        return f"**{result.fate}**"
    path, _, name = result.killed_by.partition("::")
    return f"`{path}` `{name}`"
