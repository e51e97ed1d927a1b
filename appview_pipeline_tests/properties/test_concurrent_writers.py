"""The tables are a function of the events, whoever writes them: writers that are killed, and two writers at once.

As in test_order_independence.py the tables must be what the model says, commit by commit, in the stream's order. There
batches only arrive in other ways; here a writer is killed, or meets another writer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, cycle, groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import Change
from appview_pipeline.store import sql
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.comparison import but_for_private_state, check, everything, in_any_order, quick
from appview_pipeline_tests.properties.delivery import Index, fresh_index
from appview_pipeline_tests.properties.interleaving import Outcome, Switch, TwoWriters
from appview_pipeline_tests.properties.network_builder import network_of
from appview_pipeline_tests.properties.networks import NAMES, Network, did_of
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.properties.stories import (
    FOLLOW,
    GATE,
    LIKE1,
    LIKES_A,
    SUBSCRIBED,
    A,
    B,
    C,
    muted,
    post,
    quote,
    reply,
)
from appview_pipeline_tests.properties.writer_process import RELAY, SHARD, End, Job, Moment, WriterProcess
from appview_pipeline_tests.support import commits
from appview_pipeline_tests.support.budget import Budget
from appview_pipeline_tests.support.states import Keep
from appview_pipeline_tests.support.tables import rows


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    """A database in which deadlocks are found fast."""
    with fresh_index(server, template_database) as found:
        found.find_deadlocks_after(10)
        yield found


@pytest.fixture(scope="module")
def process() -> Iterator[WriterProcess]:
    with closing(WriterProcess()) as it:
        yield it


@dataclass
class TwoWriterIndex(Index):
    """An index, two writers to it, and what happened between them."""

    writers: TwoWriters
    outcome: Outcome


@pytest.fixture
def two_writers(index: Index) -> Iterator[TwoWriterIndex]:
    with closing(TwoWriters(index.database.url)) as writers:
        yield TwoWriterIndex(index.database, index.connection, index.clean, writers, Outcome())


def decided_later(keep: Callable[[], Keep]) -> Keep:
    """A `Keep` that is made when it is first called, because it depends on what the writers did."""
    made: list[Keep] = []

    def ask(table: str, row: dict[str, Any]) -> bool:
        if not made:
            made.append(keep())
        return made[0](table, row)

    return ask


SWITCHES = (
    *("repo.lock", "repo.advance", "late.mark", "record.write", "record.delete", "record.tombstones"),
    *("post.add", "post.forget", "like.add", "repost.feed", "post.add_quotes"),
    *(
        "lock.cross_repository",
        "affected.events",
        "evaluation.evaluate_roots",
        "evaluation.flag",
        "muted_thread.correct",
    ),
    *("counters.posts", "muted_thread.mute", "notification.insert", "bookkeeping.report", "commit"),
)
"""Statements before which a switch to the other writer's transaction makes a difference."""


def test_switches_are_at_statements() -> None:
    files = (sql.folder() / "apply").glob("*.sql")
    known = {f"{file.stem}.{name}" for file in files for name in sql.sections(f"apply/{file.name}")}
    assert set(SWITCHES) - known == {"commit"}


# --- killed ----------------------------------------------------------------------------------------------------------


@dataclass
class Kills:
    """What the kills interrupted."""

    total: int = 0
    in_transaction: Counter[str] = field(default_factory=Counter)
    """Writers that killed themselves in a transaction, by the statement."""
    later: int = 0
    """Writers that were killed from outside, while they applied a batch or were about to."""
    unacknowledged: int = 0
    """A batch was committed, and its writer died before it said so."""


@dataclass(frozen=True)
class Life:
    """One writer: when it is killed, and how the rest is cut into batches for the next writer.

    `from_cursor`: the next writer begins after the cursor, else after the last acknowledged batch; `overlap` commits
    earlier.
    """

    moment: Moment
    sizes: tuple[int, ...] = (1,)
    from_cursor: bool = True
    overlap: int = 0


# A batch runs some 50 to 100 statements; not each of these in each batch.
_statements = st.one_of(
    st.sampled_from((*SWITCHES, "copy stage_repo", "bookkeeping.advance_cursor")),
    st.integers(1, 80),
)
_batch = st.sampled_from((1, 1, 2, 3))
_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)
_moments = st.one_of(
    st.builds(Moment, st.just("before"), _batch, _statements),
    st.builds(Moment, st.just("after"), _batch, _statements),
    st.builds(Moment, st.just("unacknowledged"), _batch),
    st.builds(Moment, st.just("later"), _batch, delay=st.integers(0, 40).map(lambda number: number / 1000)),
)
_lives = st.lists(
    st.builds(Life, _moments, _sizes, st.booleans(), st.sampled_from((0, 0, 1, 5))), min_size=2, max_size=4
)


class Killed:
    """Delivers an arrival by writers of which all but the last are killed."""

    def __init__(self, process: WriterProcess, arrival: Arrival, lives: Sequence[Life]) -> None:
        self._process = process
        self._arrival = arrival
        self._lives = list(lives)
        self.kills = Kills()
        self.committed: list[tuple[int, ...]] = []
        """The batches that were committed, in their order, as numbers of commits in the network."""

    def deliver(self, database: Database, batches: Sequence[Sequence[Change]]) -> None:
        """Numbers in here are positions in the arrival; its stream numbers what it delivers from 1."""
        changes = [replace(change, seq=at) for at, change in enumerate(chain.from_iterable(batches), 1)]
        edges = [0, *accumulate(map(len, batches))]
        lives = iter(self._lives)
        todo = [range(low, high) for low, high in pairwise(edges)]
        given: dict[str, list[range]] = {}
        ends: dict[str, End] = {}
        while True:
            life = next(lives, None)
            source = f"writer {len(given)}"
            given[source] = todo
            jobs = [[changes[at] for at in batch] for batch in todo]
            end = ends[source] = self._process.run(Job(database.url, source, jobs, life.moment if life else None))
            if end.acknowledged == len(todo):
                break
            life = life or Life(Moment("before", 0))
            start = _cursor(database) if life.from_cursor else todo[end.acknowledged].start
            todo = cut(max(0, start - life.overlap), len(changes), life.sizes)
        _await_sessions(database)
        assert _cursor(database) == len(changes)

        numbers = list(chain.from_iterable(self._arrival.batches))
        applied: Counter[str] = Counter()
        for source, last_seq in rows(database.url, "SELECT source, last_seq FROM pipeline.batch ORDER BY id"):
            batch = given[source][applied[source]]
            assert batch.stop == last_seq, f"{source} wrote something else than its batch {applied[source]}"
            applied[source] += 1
            self.committed.append(tuple(numbers[at] for at in batch))
        for source, end in ends.items():
            self._note(end, applied[source])

    def _note(self, end: End, applied: int) -> None:
        # A batch leaves all of itself or nothing; it is acknowledged only when it is there.
        assert end.acknowledged <= applied <= end.acknowledged + end.killed
        self.kills.total += end.killed
        self.kills.unacknowledged += applied > end.acknowledged
        if end.dying is None:
            self.kills.later += end.killed
        elif end.in_transaction:
            assert applied == end.acknowledged
            self.kills.in_transaction[end.dying] += 1


def cut(start: int, stop: int, sizes: Sequence[int]) -> list[range]:
    """Batches of the sizes, over and over."""
    batches = []
    for size in cycle(sizes):
        if start >= stop:
            break
        batches.append(range(start, min(stop, start + size)))
        start += size
    return batches


def _cursor(database: Database) -> int:
    with database.connect("reader") as connection:
        return cursor_of(connection, RELAY, SHARD) or 0


def _await_sessions(database: Database) -> None:
    """Waits for the sessions of dead writers, which may still be at their last statement."""
    deadline = time.monotonic() + 30
    while rows(
        database.url,
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%writer'",
    ):
        assert time.monotonic() < deadline, "a dead writer's session does not end"
        time.sleep(0.001)


def killed(index: Index, process: WriterProcess, data: st.DataObject, kills: Kills) -> None:
    network = data.draw(networks())
    order = data.draw(st.sampled_from(("stream", "repository")))
    arrival = data.draw(arrivals(network, order))
    by = Killed(process, arrival, data.draw(_lives))

    def bound() -> Keep:
        keep: Keep = everything
        return keep if order == "stream" else but_for_private_state(network, keep)

    check(index, network, arrival, decided_later(bound), by.deliver)
    kills.total += by.kills.total
    kills.later += by.kills.later
    kills.unacknowledged += by.kills.unacknowledged
    kills.in_transaction += by.kills.in_transaction


def check_kills(kills: Kills, examples: int) -> None:
    """Enough writers were killed, at enough places."""
    print(
        f"{kills.total} kills in {examples} examples: {kills.in_transaction.total()} in transactions, at "
        f"{len(kills.in_transaction)} statements; {kills.unacknowledged} after a COMMIT, before its writer said so; "
        f"{kills.later} from outside"
    )
    assert kills.total > examples
    assert kills.in_transaction.total() > examples / 4
    assert kills.unacknowledged > examples / 10
    assert kills.later > examples / 10
    assert len(kills.in_transaction) > (30 if examples >= 1_000 else 3)


def test_killed_at_any_moment(index: Index, process: WriterProcess, budget: Budget) -> None:
    kills = Kills()
    examples = budget.spend(quick(given(data=st.data())(lambda data: killed(index, process, data, kills))))
    check_kills(kills, examples)


# --- two at once -----------------------------------------------------------------------------------------------------

# Lists of lists: hypothesis makes single lists short.
_switches = st.lists(
    st.lists(st.one_of(st.sampled_from(SWITCHES), st.integers(1, 60)), min_size=1, max_size=6), min_size=1, max_size=8
).map(lambda lists: list(chain.from_iterable(lists)))


def at_once(
    index: TwoWriterIndex,
    network: Network,
    batches: tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]],
    switches: Sequence[Switch],
    bound: Callable[[Arrival], Keep],
) -> None:
    """Two writers write `batches` of the network's commits.

    `bound` gets the batches in the order of their COMMITs, and gives what is compared.
    """
    both = [*batches[0], *batches[1]]
    trace: list[str] = []
    arrived: list[tuple[int, ...]] = []

    def deliver(database: Database, changes: Sequence[Sequence[Change]]) -> None:
        here, there = changes[: len(batches[0])], changes[len(batches[0]) :]
        committed, turns = index.writers.write((here, there), switches)
        arrived.extend(batches[who][number] for who, number in committed)
        index.outcome.add(turns.outcome)
        trace.extend(turns.trace)

    keep = decided_later(lambda: bound(Arrival(tuple(arrived))))
    try:
        check(index, network, Arrival(tuple(both)), keep, deliver)
    except AssertionError as error:
        batches_said = (
            f"writer A: {Arrival(tuple(batches[0]))}, writer B: {Arrival(tuple(batches[1]))}, switching at {switches}"
        )
        raise AssertionError("\n".join([str(error), batches_said, *_short(trace)])) from None


def _short(trace: Sequence[str]) -> list[str]:
    """A trace as a line for each turn, and what happened in between."""
    lines = []
    for who, turn in groupby(trace, key=lambda line: line[0]):
        statements = [line[2:] for line in turn]
        lines.append(f"{who}: {statements[0]} .. {statements[-1]} ({len(statements)})")
    return lines


# --- what went wrong once --------------------------------------------------------------------------------------------

LIKES_REPLY = {"subject": {"ref": f"@{B}"}}
REPOSTS_A = (f"bob/{commits.REPOST}/repost1", {"subject": {"ref": f"@{A}"}})

STORIES: dict[str, tuple[Network, str, str, list[Switch]]] = {
    "a post is quoted while it is deleted": (
        network_of((A, post()), (B, post(embed=quote(A))), (A, None)),
        "1",
        "0 2",
        ["post.forget"],
    ),
    "a post is deleted while it is quoted": (
        network_of((A, post()), (B, post(embed=quote(A))), (A, None)),
        "0|2",
        "1",
        ["copy stage_repo", "copy stage_repo", "bookkeeping.report"],
    ),
    "a post is reposted while it is deleted": (
        network_of((A, post()), REPOSTS_A, (A, None)),
        "1",
        "0 2",
        ["repost.count"],
    ),
    "the first commits of a repository come twice at once, and the second deletes the first": (
        network_of((LIKE1, LIKES_A), (LIKE1, None)),
        "0",
        "0 1",
        ["repo.advance"],
    ),
    "the first commits of a repository come twice at once, and the second edits the first": (
        network_of((B, post()), (B, post(text="no"))),
        "0",
        "0 1",
        ["repo.advance"],
    ),
    "a reply is liked while it is written into a muted thread": (
        network_of((A, post()), (B, reply(A)), (LIKE1, LIKES_REPLY), thread_mutes=muted("bob", A)),
        "2",
        "0|1",
        ["bookkeeping.report"],
    ),
    "a reply is deleted while its parent arrives, then it is answered": (
        network_of((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None)),
        "1|3|2",
        "0",
        ["record.delete"],
    ),
    "a reply is deleted while a gate arrives that turns it away": (
        network_of((A, post()), (GATE, {"post": f"@{A}", "allow": []}), (B, reply(A)), (B, None)),
        "2|3",
        "0|1",
        ["version.deciding", "lock.cross_repository", "lock.cross_repository"],
    ),
    "a reply and its parent arrive at once": (
        network_of((A, post()), (B, reply(A))),
        "1",
        "0",
        ["bookkeeping.report"],
    ),
    "a post and its subscriber's follow arrive at once": (
        network_of((FOLLOW, {"subject": "@alice"}), (A, post()), subscriptions=SUBSCRIBED),
        "1",
        "0",
        ["bookkeeping.report"],
    ),
    "two writers delete posts that quote each other": (
        network_of((A, post()), (B, post(embed=quote(A))), (A, post(embed=quote(B))), (A, None), (B, None)),
        "0 2|3",
        "1|4",
        ["copy stage_repo", "copy stage_repo", "post.forget", "post.forget"],
    ),
}


def batches_of(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, batch.split())) for batch in text.split("|")]


@pytest.mark.parametrize("name", STORIES)
def test_story(two_writers: TwoWriterIndex, name: str) -> None:
    network, here, there, switches = STORIES[name]
    at_once(
        two_writers,
        network,
        (batches_of(here), batches_of(there)),
        switches,
        lambda committed: everything,
    )


# --- the properties --------------------------------------------------------------------------------------------------


def split(index: TwoWriterIndex, data: st.DataObject) -> None:
    """Each repository belongs to one of the writers."""
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "repository"))
    seconds = {did_of(number) for number in data.draw(st.sets(st.integers(0, len(NAMES) - 1), min_size=1))}
    halves = [
        [
            half
            for batch in arrival.batches
            if (half := tuple(n for n in batch if (network.commits[n].did in seconds) is b))
        ]
        for b in (False, True)
    ]
    at_once(
        index,
        network,
        (halves[0], halves[1]),
        data.draw(_switches),
        lambda committed: but_for_private_state(network, everything),
    )


def redelivered(index: TwoWriterIndex, data: st.DataObject) -> None:
    """Both writers write everything, each in an order of its own that keeps each repository's."""
    network = data.draw(networks())
    batches = [data.draw(arrivals(network, "repository")).batches for _ in range(2)]
    at_once(
        index,
        network,
        (batches[0], batches[1]),
        data.draw(_switches),
        lambda committed: but_for_private_state(network, everything),
    )


def backfilled(index: TwoWriterIndex, data: st.DataObject) -> None:
    """One writer is live from some commit on; the other one writes the past, and into the present."""
    network = data.draw(networks())
    count = len(network.commits)
    since, until = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    live = [range(since, count)[batch.start : batch.stop] for batch in cut(0, count - since, data.draw(_sizes))]
    past = data.draw(arrivals(network, "repository")).batches
    past_only = [tuple(number for number in batch if number < until) for batch in past]
    at_once(
        index,
        network,
        ([tuple(batch) for batch in live], [batch for batch in past_only if batch]),
        data.draw(_switches),
        lambda committed: but_for_private_state(network, in_any_order(network)),
    )


def check_outcome(outcome: Outcome, examples: int) -> None:
    """The writers met often enough."""
    print(
        f"{outcome.switches.total()} switches in transactions, at {len(outcome.switches)} statements, "
        f"in {examples} examples; {outcome.waits.total()} waits for a lock ({outcome.waits.most_common(4)}), "
        f"deadlocks: {dict(outcome.deadlocks)}"
    )
    assert outcome.switches.total() > examples / 2
    assert outcome.waits.total() > examples / 4
    assert len(outcome.switches) > (30 if examples >= 400 else 5)


Way = Callable[[TwoWriterIndex, st.DataObject], None]
WAYS = pytest.mark.parametrize("way", [split, redelivered, backfilled])


@WAYS
def test_two_writers_at_once(two_writers: TwoWriterIndex, way: Way, budget: Budget) -> None:
    examples = budget.spend(quick(given(data=st.data())(lambda data: way(two_writers, data))))
    check_outcome(two_writers.outcome, examples)
