"""Simulated time, and sets that random members are drawn from: by popularity, or the newest most often."""

from __future__ import annotations

from random import Random
from typing import Any

from appview_pipeline_tests.simulated_network.content import Post


class Clock:
    """Simulated time in microseconds since 1970; no moment is given out twice."""

    def __init__(self, micros: int) -> None:
        self.micros = micros

    def tick(self, by: float = 1) -> int:
        self.micros += max(1, int(by))
        return self.micros


class Ranked:
    """A bounded set drawn from by popularity: the n-th is drawn with a probability proportional to 1/n (Zipf).

    A new member takes the place of a random one, so that ranks last while the members turn over.
    """

    def __init__(self, rng: Random, limit: int) -> None:
        self.rng, self.limit = rng, limit
        self.members: list[Post] = []

    def add(self, member: Post) -> None:
        if len(self.members) < self.limit:
            self.members.append(member)
        else:
            self.members[self.rng.randrange(self.limit)] = member

    def draw(self) -> Post:
        return self.members[int(len(self.members) ** self.rng.random()) - 1]


class Recent:
    """The newest of something, drawn with the newest most often."""

    def __init__(self, rng: Random, limit: int) -> None:
        self.rng, self.limit = rng, limit
        self.members: list[Any] = []

    def add(self, member: Any) -> None:
        self.members.append(member)
        if len(self.members) >= 2 * self.limit:
            del self.members[: -self.limit]

    def draw(self) -> Any | None:
        if not self.members:
            return None
        return self.members[-int(min(len(self.members), self.limit) ** self.rng.random())]
