"""`python -m appview_pipeline_tests.mutants [NAME...]`: small defects in the product, each of which tests must notice.

NAME is a mutant's or a part's of the product (`store`, `sql`); without any, all are tried. Start it in the checkout.
The defects are in copies of the checkout, so it can be worked on meanwhile. Exit code 1: a mutant was not killed.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

from appview_pipeline_tests.mutants import campaign, table
from appview_pipeline_tests.mutants.campaign import Result
from appview_pipeline_tests.mutants.every_mutant import MUTANTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appview_pipeline_tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants, or parts of the product (default: all)")
    parser.add_argument("--list", action="store_true", help="print the mutants and their promises, and end")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are tried at a time (default 2)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=campaign.MUTANT_SECONDS,
        help="limit of time of a mutant's tests (default %(default)s)",
    )
    parser.add_argument(
        "--tests-pass", action="store_true", help="leave out the run without any defect: the suite has just passed"
    )
    parser.add_argument("--write", action="store_true", help=f"write the results to {table.DOCUMENT.name}")
    options = parser.parse_args()
    known = {it.name for it in MUTANTS} | {it.part for it in MUTANTS}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no mutant and no part named {', '.join(unknown)}; --list names them")
    chosen = [it for it in MUTANTS if not options.names or {it.name, it.part} & set(options.names)]
    if options.list:
        for it in chosen:
            print(f"{it.name}  ({it.file})\n    {it.promise}")
        return 0
    began = time.monotonic()
    print(
        f"{len(chosen)} mutants" + ("" if options.tests_pass else "; first their tests without any defect"), flush=True
    )
    with tempfile.TemporaryDirectory(prefix="appview-mutants-") as folder:
        # The tests' PostgreSQL runs as another user when we are root, and must reach what it reads.
        Path(folder).chmod(0o755)
        try:
            results = campaign.run(
                chosen,
                Path(folder),
                _tell,
                jobs=max(options.jobs, 1),
                seconds=options.seconds,
                tests_pass=options.tests_pass,
            )
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    if options.write:
        table.DOCUMENT.write_text(table.written(MUTANTS, results), encoding="utf-8")
    _summarize(results, time.monotonic() - began)
    return 0 if all(it.fate == "killed" for it in results) else 1


def _tell(result: Result) -> None:
    by = f" by {result.killed_by}" if result.killed_by else ""
    print(
        f"{result.seconds:6.1f} s  {result.fate:<12} {result.mutant.name}{by}\n{'':22}{result.words[:160]}", flush=True
    )


def _summarize(results: list[Result], seconds: float) -> None:
    width = max(len(it.mutant.name) for it in results)
    print()
    for it in results:
        outcome = it.killed_by if it.fate == "killed" else it.fate.upper()
        print(f"{it.mutant.name:<{width}}  {outcome}\n    {it.mutant.promise}")
    fates = collections.Counter(it.fate for it in results)
    others = "".join(f", {count} {fate}" for fate, count in sorted(fates.items()) if fate != "killed")
    print(f"\n{fates['killed']} of {len(results)} killed{others}; {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    raise SystemExit(main())
