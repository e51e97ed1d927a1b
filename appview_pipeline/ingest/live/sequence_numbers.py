"""The sequence numbers of a consumer's stream: numbers left out, steps back, and how far the cursor may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import sub

from appview_pipeline.indexing.changes import Change, Gap
from appview_pipeline.network.sequence import Run, StreamNumbers
from appview_pipeline.store.gaps import MAX_OPEN, StreamGap


@dataclass
class Seen:
    """What the numbers of some frames mean. Indexes are those of the frames.

    `doubtful`: frames that don't move the cursor. `restart`: the first frame of a new numbering, or after a step back.
    `odd`: how many numbers fit nothing before them. `reached`: where the stream is now, where this is known only now
    of frames that came before.
    """

    doubtful: set[int] = field(default_factory=set)
    restart: int | None = None
    skipped: int = 0
    odd: int = 0
    reached: int | None = None
    gaps: dict[tuple[str, int, int], bool] = field(default_factory=dict)
    """(kind, after, until) -> whether nothing is missing there after all."""


class SequenceNumbers:
    """Watches the numbers of one shard's stream, each once and in order of arrival.

    `reached`: the cursor. `allowed` (`APPVIEW_SEQUENCE_GAP`): more numbers left out at once are a gap. `open_gaps`:
    the gaps noted before.
    """

    def __init__(
        self, relay: str, shard: str, reached: int | None, *, allowed: int, open_gaps: Iterable[StreamGap] = ()
    ) -> None:
        self._relay = relay
        self._shard = shard
        self._allowed = allowed
        self._line = StreamNumbers(reached, allowed)
        self._open: dict[int, set[tuple[str, int]]] = {}  # after -> (kind, until)
        for gap in open_gaps:
            self._open.setdefault(gap.after, set()).add((gap.kind, gap.until))
        self._began: dict[int, str] = {}
        self._oversized: set[int] = set()
        self._unread = False  # frames without a number have come since the last one that counts
        self._held: list[int] = []  # frames of this batch that belong to the run that is not confirmed yet

    @property
    def reached(self) -> int | None:
        """The last number that counts."""
        return self._line.reached

    def connected(self, first: int, kind: str) -> None:
        """A connection began with the number `first`, which is not the next one: a gap of that kind."""
        self._began[first] = kind
        while len(self._began) > MAX_OPEN:
            del self._began[next(iter(self._began))]

    def oversized(self, after: int) -> None:
        """The event after this number was too large to be received."""
        if len(self._oversized) < MAX_OPEN:
            self._oversized.add(after)

    def see(self, numbers: Sequence[int | None], now: float) -> Seen:
        """Reads these frames' numbers (None: a frame that has none, or can't be read). `now`: monotonic seconds."""
        seen = Seen()
        self._held = []
        if not numbers:
            self._rest(seen, now)
        elif not self._usual(numbers, seen):
            for index, number in enumerate(numbers):
                if number is None:
                    self._unread = True
                    seen.doubtful.add(index)
                else:
                    self._see(index, number, seen, now)
        other, reached = self._line.other, self._line.reached
        if other is not None and reached is not None and other.first > reached:
            self._note(seen, other.begins or "sequence", reached, other.first)  # in case the stream ends here
        return seen

    def changes_of(self, seen: Seen) -> list[Change]:
        """The changes to write for it, in front of the frames' own."""
        if not (seen.gaps or seen.skipped or seen.odd or seen.reached is not None):
            return []
        change = Change(size=0, is_position=True, skipped=seen.skipped, doubtful=seen.odd)
        change.gaps = [
            Gap(kind=kind, relay=self._relay, shard=self._shard, after=str(after), until=str(until), resolved=resolved)
            for (kind, after, until), resolved in seen.gaps.items()
        ]
        if seen.reached is not None:
            change.restarts_at = change.seq = seen.reached
        return [change]

    def _usual(self, numbers: Sequence[int | None], seen: Seen) -> bool:
        """Whether all numbers go on as they should: nearly always they do, and nothing else has to be done."""
        main = self._line.main
        odd = self._line.other is not None or self._unread or self._began or self._oversized
        if main is None or odd or None in numbers:
            return False
        before, last = main.last, numbers[-1]
        steps = list(map(sub, numbers, [before, *numbers[:-1]]))
        if last is None or min(steps) < 1 or max(steps) > self._allowed + 1:
            return False
        seen.skipped = last - before - len(numbers)
        self._line.advance(last, len(numbers))
        self._close_passed(seen, before, last)
        return True

    def _see(self, index: int, number: int, seen: Seen, now: float) -> None:
        line, kind = self._line, self._began.pop(number, None)
        before, other = line.reached, line.other
        verdict = line.add(number, now, begins=kind)
        if other is not None and line.other is not other and line.main is not other:
            self._drop(other, before, seen)
            self._held = []
        if before is None or verdict == "repeated":
            return
        if verdict == "follows":
            self._close_passed(seen, before, number)
            seen.skipped += number - before - 1
            if before in self._oversized:
                self._oversized.discard(before)
                self._unread = True
            if number > before + 1 and (self._unread or kind is not None):
                self._note(seen, kind or "sequence", before, number)
            self._unread = False
        elif verdict == "doubtful":
            seen.doubtful.add(index)
            seen.odd += 1
            if line.other is not other and number < before and not self._went_back(before):
                self._note(seen, kind or "sequence", before, number)
            self._held.append(index)
        else:
            self._held.append(index)
            seen.doubtful.difference_update(self._held)
            assert line.main is not None
            self._believe(line.main, before, seen)
            if line.main.first < before:
                seen.restart = self._held[0]
            self._held = []

    def _rest(self, seen: Seen, now: float) -> None:
        before = self._line.reached
        if before is not None and self._line.move_if_quiet(now):
            assert self._line.main is not None
            self._believe(self._line.main, before, seen)
            seen.reached = self._line.reached

    def _believe(self, run: Run, before: int, seen: Seen) -> None:
        """The stream goes on with `run`, after `before`."""
        self._unread = False
        if run.first > before:
            seen.skipped += run.first - before - 1
            self._note(seen, run.begins or "sequence", before, run.first)

    def _drop(self, run: Run, before: int | None, seen: Seen) -> None:
        """Drops `run`: the stream went on without it, so nothing is missing because of it."""
        kind = run.begins or "sequence"
        if before is not None and run.first > before and (kind, run.first) in self._open.get(before, ()):
            self._close(seen, kind, before, run.first)

    def _went_back(self, after: int) -> bool:
        return any(until < after for _, until in self._open.get(after, ()))

    def _note(self, seen: Seen, kind: str, after: int, until: int) -> None:
        found = self._open.setdefault(after, set())
        if (kind, until) not in found:
            found.add((kind, until))
            seen.gaps[kind, after, until] = False
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def _close(self, seen: Seen, kind: str, after: int, until: int) -> None:
        found = self._open.get(after, set())
        found.discard((kind, until))
        if not found:
            self._open.pop(after, None)
        seen.gaps[kind, after, until] = True

    def _close_passed(self, seen: Seen, before: int, until: int) -> None:
        """The stream went on past these numbers step by step, so nothing is missing right after them."""
        for after in [after for after in self._open if before <= after < until]:
            for kind, end in [*self._open[after]]:
                self._close(seen, kind, after, end)
