"""The ways in which a network's commits may arrive: in batches, repeated, shuffled."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from appview_pipeline_tests.properties.networks import Network


@dataclass(frozen=True)
class Arrival:
    """The order in which commits arrive, by number, in batches; a number may come again."""

    batches: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        return " | ".join(" ".join(map(str, batch)) for batch in self.batches)


@st.composite
def arrivals(draw: st.DrawFn, network: Network, order: str = "stream", size: int | None = None) -> Arrival:
    """Ways in which a network's commits may arrive.

    `order`: `stream` keeps it; `repository` keeps each repository's; `any` keeps none. `size`: of batches, None: any.
    Some commits come twice.
    """
    numbers = list(range(len(network.commits)))
    if order != "stream":
        numbers = list(draw(st.permutations(numbers)))
    if order == "repository":
        queues: dict[str, list[int]] = defaultdict(list)
        for number, commit in enumerate(network.commits):
            queues[commit.did].append(number)
        numbers = [queues[network.commits[number].did].pop(0) for number in numbers]
    # A commit is repeated after it came: a repetition is no reordering.
    for again, after in draw(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), max_size=4)):
        at = again % len(numbers)
        numbers.insert(min(len(numbers), at + 1 + after), numbers[at])
    if size is not None:
        return Arrival(tuple(tuple(numbers[at : at + size]) for at in range(0, len(numbers), size)))
    cuts = draw(st.lists(st.integers(1, len(numbers)), max_size=12, unique=True))
    edges = [0, *sorted(cut for cut in cuts if cut < len(numbers)), len(numbers)]
    return Arrival(tuple(tuple(numbers[low:high]) for low, high in pairwise(edges)))
