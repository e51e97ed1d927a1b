"""Generated networks through our pipeline and through the reference's indexer, and every read of both compared.

    python -m appview_pipeline_tests.conformance.reference.compare_networks --seeds 1-10 --events 800

It prints of each network how many reads were equal, and by name the differences that explain the others; then the
totals, and the differences that could have occurred and that no network showed. Exit code 1: a read differs that no
difference explains, or our answers depend on batches or order. `--rows` compares the tables alone, which takes a tenth
of the time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference import generated_networks
from appview_pipeline_tests.conformance.reference.differences import Comparison, compare, execute
from appview_pipeline_tests.conformance.reference.generated import GeneratedNetwork
from appview_pipeline_tests.conformance.reference.oracle import (
    Call,
    Oracle,
    oracle,
    reference_database,
    reference_template,
)
from appview_pipeline_tests.conformance.reference.packages import installed
from appview_pipeline_tests.conformance.reference.playing import Pipeline, Reference, play
from appview_pipeline_tests.conformance.reference.reads import calls
from appview_pipeline_tests.conformance.reference.repairs import NAMES, expected
from appview_pipeline_tests.conformance.reference.rows import Rows, bsky_rows, differing
from appview_pipeline_tests.conformance.reference.subjects import subjects_of
from appview_pipeline_tests.support.database import memory_folder, run_sql
from appview_pipeline_tests.support.tables import fresh_database

NETWORKS = {
    "everyday": generated_networks.everyday,
    "hostile": generated_networks.hostile,
    "lists": generated_networks.lists,
    "lives": generated_networks.lives,
}
"""By name, the makers of networks: of a seed and a number of events."""

VIEWERS, PAIRS = 5, 40
"""Accounts as whom relations are asked, and pairs of accounts."""


@dataclass
class Outcome:
    """What came of a network. `reads`: of the comparison with the reference (None: the tables alone were compared).
    `rows`: rows that still differ when all differences are undone. `disorder`: what our answers or rows were otherwise
    after another arrival."""

    network: GeneratedNetwork
    reads: Comparison | None = None
    rows: Counter[str] = field(default_factory=Counter)
    disorder: list[str] = field(default_factory=list)
    shown: Counter[str] = field(default_factory=Counter)
    """By name of a difference, the rows that it changes. (`reads` has the answers that it explains.)"""

    @property
    def holds(self) -> bool:
        """Whether all is equal or explained."""
        return not self.rows and not self.disorder and (self.reads is None or not self.reads.unequal)

    def __str__(self) -> str:
        lines = [repr(self.network)]
        if self.reads is not None:
            lines += [f"  {self.reads.asked} reads, {self.reads.equal} equal, {len(self.reads.unequal)} not explained"]
            lines += [f"  differs: {it}" for it in self.reads.unequal[:10]]
        explained = self.reads.explained if self.reads is not None else Counter[str]()
        lines += [f"  {name}: {count} rows, {explained[name]} reads" for name, count in sorted(self.shown.items())]
        lines += [f"  {line[:600]}" for line in sorted(self.rows)[:20]]
        lines += [f"  another arrival: {line[:600]}" for line in self.disorder[:20]]
        return "\n".join(lines)


def compare_network(
    asked: Oracle,
    network: GeneratedNetwork,
    ours: Database,
    again: Database,
    theirs: str,
    *,
    reads: bool = True,
    reads_again: bool = True,
) -> Outcome:
    """Plays a network into two databases of ours, in order and in disorder, and into the reference's (`theirs`, a URL),
    and compares the three. `reads`, `reads_again`: by their answers too, ours with the reference's and ours with ours;
    else by their tables alone."""
    names = {"theirs": theirs, "ours": ours.url, "again": again.url}
    with ExitStack() as stack:
        for name, url in names.items():
            asked.open(name, url)
            stack.callback(asked.close, name)
        play(
            network,
            Reference(asked, "theirs", theirs),
            Pipeline(asked, "ours", ours, size=100),
            Pipeline(asked, "again", again, size=7, disorder=1),
        )
        outcome = Outcome(network)
        differences = expected(network, ours.url)
        if reads:
            subjects = subjects_of([ours.url, theirs], viewers=VIEWERS, pairs=PAIRS)
            questions = [it for it in calls(subjects) if not _is_open(it, len(subjects.actors))]
            outcome.reads = compare(asked, "theirs", "ours", questions, differences)
            outcome.shown.update(outcome.reads.changed)
        else:
            for it in differences:
                changed = sum(execute(theirs, statement, it.parameters) for statement in it.statements)
                outcome.shown.update({it.name: changed} if changed else {})
        outcome.rows = differing(_compared(ours.url), _compared(theirs))
        # The clock of the machine, not of the stream, says when an account has returned.
        for it in differences:
            if it.name in ("account-returned", "created-and-deleted"):
                for statement in it.statements:
                    execute(again.url, statement, it.parameters)
        outcome.disorder = sorted(differing(bsky_rows(again.url), bsky_rows(ours.url)))
        if reads and reads_again and not outcome.disorder:
            outcome.disorder = [str(it) for it in compare(asked, "again", "ours", questions).unequal]
        return outcome


def _is_open(call: Call, accounts: int) -> bool:
    """Whether the reference leaves the answer to chance: of accounts liked equally often it suggests any ten."""
    return call.method == "getFollowSuggestions" and accounts > 10


def _compared(url: str) -> Rows:
    """Rows of which readers see anything: not whose duplicate a record is, nor whether a post once had a gate."""
    found = {table: rows for table, rows in bsky_rows(url).items() if table != "duplicate_record"}
    found["record"] = Counter({row: n for row, n in found["record"].items() if "/site.standard." not in row})
    posts: Counter[str] = Counter()
    for row, count in found["post"].items():
        posts[row.replace('Gate": false', 'Gate": null')] += count
    return found | {"post": posts}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="of these only")
    parser.add_argument("--seeds", default="1-3", metavar="FIRST-LAST", help="default 1-3")
    parser.add_argument("--events", type=int, default=600, help="of each network (600)")
    parser.add_argument("--rows", action="store_true", help="compares tables alone")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("-")
    packages = installed()
    if packages is None:
        print("The reference AppView is not installed: `just reference` installs it.", file=sys.stderr)
        return 2
    seen, failed, total = Counter[str](), 0, Counter[str]()
    with ephemeral(parent=memory_folder()) as server, tempfile.TemporaryDirectory() as folder:
        template, theirs = _template(server), reference_template(server, packages)
        with oracle(packages, Path(folder) / "oracle.log") as asked:
            for name in options.network or NETWORKS:
                for seed in range(int(first), int(last or first) + 1):
                    network = NETWORKS[name](seed, options.events)
                    with (
                        fresh_database(server, template) as ours,
                        fresh_database(server, template) as again,
                        reference_database(server, theirs) as url,
                    ):
                        outcome = compare_network(asked, network, ours, again, url, reads=not options.rows)
                    print(outcome, flush=True)
                    failed += not outcome.holds
                    seen.update(outcome.shown)
                    total.update(networks=1, events=len(network.frames))
                    if outcome.reads is not None:
                        total.update(reads=outcome.reads.asked, equal=outcome.reads.equal)
    print(f"{dict(total)}; {failed} networks failed; rows that differed by name: {dict(sorted(seen.items()))}")
    print(f"not shown: {', '.join(sorted(NAMES - seen.keys())) or 'none'}")
    return 1 if failed else 0


def _template(server: EmbeddedPostgres) -> str:
    """Name of a database with our newest schema, to be cloned."""
    name = "appview_template"
    run_sql(server, f'CREATE DATABASE "{name}"')
    migrate.upgrade(server.url(name))
    run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    return name


if __name__ == "__main__":
    sys.exit(main())
