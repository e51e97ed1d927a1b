"""Asks the reference's data plane over its own database and over ours, and says what it finds (README.md).

Usage: python -m appview_pipeline_tests.conformance.reference.compare CONFORMANCE [--json] [INPUT ...]
`CONFORMANCE` is the folder of the conformance data. An INPUT is "corpus" or the beginning of a scenario's name; without
any all are compared. The report is Markdown or JSON; the exit code is 1 when an answer is neither equal nor explained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appview_pipeline.store import migrate
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference import packages
from appview_pipeline_tests.conformance.reference.differences import Comparison, Difference, compare
from appview_pipeline_tests.conformance.reference.expected import expected_differences
from appview_pipeline_tests.conformance.reference.inputs import Both, both, index_corpus, play_both
from appview_pipeline_tests.conformance.reference.oracle import Oracle, oracle, reference_template
from appview_pipeline_tests.conformance.reference.other_state import add_other_state
from appview_pipeline_tests.conformance.reference.reads import METHODS_THAT_WRITE, READS, calls
from appview_pipeline_tests.conformance.reference.subjects import Subjects, subjects_of
from appview_pipeline_tests.support.database import memory_folder, run_sql
from appview_pipeline_tests.support.scenarios import Scenario, load

CORPUS_VIEWERS, CORPUS_PAIRS = 8, 40
"""As how many of its accounts the corpus is read, and for how many pairs of accounts."""


@dataclass(frozen=True)
class Bench:
    """What comparisons are made with. `templates`: the databases that are cloned, the reference's and ours."""

    oracle: Oracle
    server: EmbeddedPostgres
    templates: tuple[str, str]


def compare_scenario(bench: Bench, scenario: Scenario) -> Iterator[tuple[str, Comparison]]:
    """The comparison at each checkpoint. A difference changes the reference's database, so that a checkpoint which has
    any is the last of its play: the scenario is played again for it."""
    apart = []
    with both(bench.oracle, bench.server, bench.templates) as made:
        for checkpoint in play_both(bench.oracle, made, scenario):
            expected = expected_differences(scenario.id, checkpoint, made.records)
            if expected and checkpoint != "final":
                apart.append(checkpoint)
            else:
                yield checkpoint, compare_both(bench, made, expected, is_last=checkpoint == "final")
    for last in apart:
        with both(bench.oracle, bench.server, bench.templates) as made:
            for checkpoint in play_both(bench.oracle, made, scenario):
                if checkpoint == last:
                    expected = expected_differences(scenario.id, checkpoint, made.records)
                    yield checkpoint, compare_both(bench, made, expected, is_last=True)
                    break


def compare_corpus(bench: Bench, conformance: Path, others: int | None = None) -> Comparison:
    """The comparison after the real frames of the corpus. `others`: how many of the accounts of which it has nothing
    but the name are asked about; None: all."""
    with both(bench.oracle, bench.server, bench.templates) as made:
        index_corpus(bench.oracle, made, conformance)
        subjects = subjects_of(
            made.urls, (*made.records, *made.deleted), viewers=CORPUS_VIEWERS, pairs=CORPUS_PAIRS, others=others
        )
        return compare_both(bench, made, expected_differences("corpus", "final", made.records), subjects, is_last=True)


def compare_both(
    bench: Bench, made: Both, expected: list[Difference], subjects: Subjects | None = None, *, is_last: bool = False
) -> Comparison:
    """Asks both databases everything. Where nothing more is indexed (`is_last`), they first get what no stream brings:
    mutes, bookmarks, labels, takedowns."""
    subjects = subjects or subjects_of(made.urls, (*made.records, *made.deleted))
    if is_last:
        for url in made.urls:
            add_other_state(url, subjects)
    return compare(bench.oracle, "theirs", "ours", calls(subjects), expected)


def report(found: dict[str, Comparison]) -> str:
    """A table of comparisons by input, in Markdown."""
    lines = ["| input | reads | equal | explained by a difference | unexplained |", "|---|---|---|---|---|"]
    for name, it in found.items():
        explained = ", ".join(f"`{difference}` {count}" for difference, count in sorted(it.explained.items()))
        lines.append(f"| {name} | {it.asked:,} | {it.equal:,} | {explained} | {len(it.unequal)} |")
    total = summary(found)
    explained = ", ".join(f"`{difference}` {count}" for difference, count in sorted(total["explained"].items()))
    lines.append(f"| all | {total['asked']:,} | {total['equal']:,} | {explained} | {total['unexplained']} |")
    lines.append(f"\n{len(READS)} methods that read were asked, {len(METHODS_THAT_WRITE)} write.")
    lines += [f"\n{name}: {it}" for name, it in found.items() if not it.holds]
    return "\n".join(lines)


def summary(found: dict[str, Comparison]) -> dict[str, Any]:
    """The sums over all inputs."""
    explained: Counter[str] = sum((it.explained for it in found.values()), Counter())
    return {
        "asked": sum(it.asked for it in found.values()),
        "equal": sum(it.equal for it in found.values()),
        "explained": dict(explained),
        "unexplained": sum(len(it.unequal) for it in found.values()),
        "absent": [line for it in found.values() for line in it.absent],
        "methods": len(READS),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compares the reads of the reference's data plane.")
    parser.add_argument("conformance", type=Path)
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    installed = packages.installed()
    if installed is None:
        sys.exit(f"The reference AppView is not in {packages.folder()}: `just reference` installs it.")
    found: dict[str, Comparison] = {}
    with (
        ephemeral(parent=memory_folder()) as server,
        tempfile.TemporaryDirectory() as folder,
        oracle(installed, Path(folder) / "log") as asked,
    ):
        run_sql(server, "CREATE DATABASE ours")
        migrate.upgrade(server.url("ours"))
        run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ours'")
        bench = Bench(asked, server, (reference_template(server, installed), "ours"))
        if not given.inputs or "corpus" in given.inputs:
            found["corpus"] = compare_corpus(bench, given.conformance)
        for scenario in load(given.conformance):
            if not given.inputs or scenario.id.startswith(tuple(given.inputs)):
                for checkpoint, comparison in compare_scenario(bench, scenario):
                    found[f"{scenario.id}, {checkpoint}"] = comparison
    print(json.dumps(summary(found)) if given.json else report(found))
    return 0 if all(it.holds for it in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
