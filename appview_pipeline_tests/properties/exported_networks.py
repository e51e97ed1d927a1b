"""Networks whose repositories are exported now and then, while their commits arrive, or get lost.

Record keys are TIDs of a moment just before the commit that creates the record, as on the network. So the rev that an
export gives a record is nearly the one of its commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from appview_pipeline.indexing.changes import Change
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.network_builder import SECOND
from appview_pipeline_tests.properties.networks import NAMES, START, Move, Network
from appview_pipeline_tests.properties.random_networks import KINDS, RandomNetwork
from appview_pipeline_tests.support.commits import Commit
from appview_pipeline_tests.support.exports import Compared, Repository

WITHOUT_HISTORY = tuple(
    kind
    for kind in KINDS
    if kind.split(" ")[0] not in ("edit", "delete", "again", "threadgate", "postgate", "profile", "declare")
)
"""Moves that nothing is lost of in an export: it has no past states, and no rev of a record that is at a fixed key."""


class TidNetwork(RandomNetwork):
    """The network so far, with TIDs as record keys."""

    made: int = 0

    def new_uri(self, did: str, collection: str) -> str:
        self.made += 1
        return (
            f"at://{did}/{collection}/{tid_from_micros(START + len(self.commits) * SECOND - SECOND // 2 + self.made)}"
        )


@st.composite
def tid_networks(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Network:
    """Networks of up to 40 operations, each in a commit of its own."""
    actor = st.integers(0, len(NAMES) - 3)
    # 13: names a post that is written later, under a key that is older than it.
    twist = st.integers(0, 15).filter(lambda number: number != 13)
    move = st.builds(Move, st.sampled_from(kinds), actor, st.integers(0, 31), st.integers(0, 31), twist, st.just(False))
    builder = TidNetwork()
    for scene in draw(st.lists(st.lists(move, min_size=1, max_size=8), min_size=1, max_size=5)):
        for one in scene:
            builder.make(one)
    return Network(tuple(Commit(did, rev, time, tuple(ops)) for did, rev, time, ops, _ in builder.commits))


@dataclass(frozen=True)
class Export:
    """An export of an account's repository as of a commit of the network: it is compared after `begins` batches, and
    each part is written some batches (`pauses`) later. `is_cut_off`: the last one never is."""

    did: str
    commits: int
    begins: int
    pauses: tuple[int, ...]
    part_rows: int
    is_cut_off: bool


@dataclass(frozen=True)
class Story:
    """What arrives: batches of commits, and exports between them. `lost`: commits that never arrive."""

    arrival: Arrival
    lost: frozenset[int]
    exports: tuple[Export, ...]

    def __repr__(self) -> str:
        return "\n".join([repr(self.arrival), f"lost: {sorted(self.lost)}", *map(repr, self.exports)])


@st.composite
def stories(draw: st.DrawFn, network: Network) -> Story:
    """Ways in which a network may arrive, with losses and exports."""
    arrival = draw(arrivals(network, order=draw(st.sampled_from(["stream", "repository", "any"]))))
    count = len(network.commits)
    lost = draw(st.sets(st.integers(0, count - 1), max_size=max(1, count // 3)))
    export = st.builds(
        Export,
        did=st.sampled_from(sorted({commit.did for commit in network.commits})),
        commits=st.integers(1, count),
        begins=st.integers(0, len(arrival.batches)),
        pauses=st.lists(st.integers(0, 2), max_size=4).map(tuple),
        part_rows=st.integers(1, 5),
        is_cut_off=st.integers(0, 4).map(lambda number: number == 4),
    )
    return Story(arrival, frozenset(lost), tuple(draw(st.lists(export, max_size=6))))


def repository_of(network: Network, did: str, commits: int) -> Repository | None:
    """The account's repository after the first `commits` commits of the network; None before its first one."""
    own = [commit for commit in network.commits[:commits] if commit.did == did]
    return Repository.after(own) if own else None


@dataclass
class Underway:
    """An export of which parts are still to be written, and the batch before which the next one is."""

    parts: Iterator[Change]
    due: int
    pauses: list[int] = field(default_factory=list)


def parts_of(export: Export, compared: Compared, at: int) -> Underway:
    """The parts of a comparison, to be written from batch `at` on."""
    parts = compared.changes(export.part_rows)
    if export.is_cut_off:
        parts.pop()
    return Underway(iter(parts), at + (export.pauses[0] if export.pauses else 0), list(export.pauses[1:]))
