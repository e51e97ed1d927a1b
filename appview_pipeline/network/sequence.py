"""How far a stream has come, by the sequence numbers of its events.

Numbers rise, and some may be left out (https://atproto.com/specs/event-stream). A number far ahead of the others, or
behind them, is either one odd event or a relay that goes on elsewhere; only the next numbers show which. Until then it
moves nothing: a stream resumed from a made-up number would lose all events before it, or stand still for ever.

Labelers' numbers leap (`LeapingNumbers`): they are often the numbers of a database's rows, of which many have gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONFIRMING = 10
"""Numbers in a row that show that the stream goes on elsewhere."""
FEW_CONFIRMING = 3
QUIET_SECONDS = 2.0
"""On a quiet stream so few numbers in a row are enough, once nothing else has come for so long. After a connection that
began by going back, or by saying that the cursor is outdated, the first number is enough."""

Verdict = Literal["follows", "repeated", "doubtful", "confirmed"]
"""`follows`: the stream has moved on to the number. `repeated`: the number is the stream's last one again. `doubtful`:
it fits nothing before it, or a run that is not confirmed yet. `confirmed`: it confirms its run; the stream goes on from
it."""


@dataclass
class Run:
    """Numbers that follow one another. `events`: how many, up to `CONFIRMING`. `leap`: how far a number may be from the
    one before it, beyond what is usual: numbers of some streams have large steps. `at`: when the last one came."""

    first: int
    last: int
    events: int = 1
    leap: int = 0
    at: float = 0.0
    begins: str | None = None
    """The kind of gap with which a connection began at `first`."""


class StreamNumbers:
    """The numbers of one stream, in order of arrival.

    `reached`: the last number that counts (None or 0: any may come first). `allowed`: numbers that may be left out
    between two events without doubt.
    """

    def __init__(self, reached: int | None, allowed: int) -> None:
        self._allowed = allowed
        self.main = Run(reached, reached, CONFIRMING) if reached else None
        self.other: Run | None = None

    @property
    def reached(self) -> int | None:
        """The number to resume after."""
        return None if self.main is None else self.main.last

    def follows(self, number: int, events: int = 1) -> bool:
        """Whether a number goes on from where the stream is, `events` later."""
        return self.main is None or self.main.last < number <= self.main.last + self._allowed + events

    def add(self, number: int, now: float, events: int = 1, begins: str | None = None) -> Verdict:
        """Takes the next number into account: of the last of `events` whose numbers were not read. `now`: seconds."""
        main, other = self.main, self.other
        if main is None:
            self.main = Run(number, number)
            return "follows"
        if self.follows(number, events):
            self.advance(number, events)
            self.other = None
            return "follows"
        if other is not None and other.last < number <= other.last + max(self._allowed + events, other.leap):
            other.last, other.at = number, now
            other.events = min(CONFIRMING, other.events + events)
            if other.events >= min(CONFIRMING, main.events + 1):
                self.main, self.other = other, None
                return "confirmed"
            return "doubtful"
        if number == main.last:
            return "repeated"
        self.other = Run(number, number, leap=max(0, number - main.last), at=now, begins=begins)
        return "doubtful"

    def advance(self, number: int, events: int) -> None:
        """Moves to a number that follows."""
        assert self.main is not None
        self.main.last = number
        self.main.events = min(CONFIRMING, self.main.events + events)

    def go_back(self, number: int) -> None:
        """Assumes that the stream goes on at `number`, unless the next one contradicts it: nothing is lost by that."""
        self.main, self.other = Run(number, number), self.main

    def move_if_quiet(self, now: float) -> bool:
        """Moves the stream to the other run if nothing contradicted it for a while; returns whether it did."""
        main, other = self.main, self.other
        if main is None or other is None or now - other.at < QUIET_SECONDS:
            return False
        began = other.begins is not None and (other.first < main.last or other.begins == "outdated_cursor")
        if not began and other.events < FEW_CONFIRMING:
            return False
        self.main, self.other = other, None
        return True


MAX_LEAP = 2**40
"""How far a number of a labeler's stream may be ahead of the one before it without doubt. Some labelers number by the
microsecond, of which these are twelve days."""


class LeapingNumbers:
    """The numbers of a stream that leap, in order of arrival.

    `reached`: the number to resume after (None or 0: as the stream was begun). It is the last number that came, also
    one that is lower than those before it: to resume from a lower number repeats events, and loses none. Only a number
    that is more than `MAX_LEAP` ahead is doubtful, until the next one goes on from it. Until then it moves nothing, so
    that an event with a made-up number does not cost those that come after it.
    """

    def __init__(self, reached: int | None) -> None:
        self.reached = reached
        self._doubtful: int | None = None

    def follows(self, number: int, events: int = 1) -> bool:
        """Whether a number goes on from where the stream is."""
        reached = self.reached or 0
        return reached < number <= reached + MAX_LEAP

    def add(self, number: int, now: float = 0.0, events: int = 1) -> Verdict:
        """Takes the next number into account; arguments as of `StreamNumbers.add`."""
        if number == self.reached:
            return "repeated"
        if number < (self.reached or 0) or self.follows(number):
            self.reached, self._doubtful = number, None
            return "follows"
        if self._doubtful is not None and self._doubtful < number <= self._doubtful + MAX_LEAP:
            self.reached, self._doubtful = number, None
            return "confirmed"
        self._doubtful = number
        return "doubtful"

    def go_back(self, number: int) -> None:
        """The stream goes on at `number`, which is before the last one."""
        self.reached, self._doubtful = number, None
