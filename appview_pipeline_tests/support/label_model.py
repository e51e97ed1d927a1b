"""What `bsky.label` has to say, from nothing but the set of label events: a plain model of sql/apply/label.sql.

It follows the words of docs/labels.md and knows nothing of batches or of the order of arrival.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from appview_pipeline.store.labels import LabelRow

Key = tuple[str, str, str, str]
"""(src, uri, cid, val), the key of `bsky.label`; cid is '' for any version."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NO_SEQ = -1
_NEVER = 1 << 63


class ModelRow(NamedTuple):
    """A row of `bsky.label` beside its key."""

    neg: bool
    cts: str
    exp: str | None


class _Order(NamedTuple):
    """By which of two events of one (src, uri, val) is the greater one decided."""

    cts: int
    seq: int
    neg: bool
    exp: int


@dataclass
class LabelModel:
    """The label events that were ever applied. Events that are the same but for their `seq` are one, with the greatest
    `seq`."""

    seqs: dict[Key, dict[tuple[int, bool, int], int]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, rows: Iterable[LabelRow]) -> None:
        """Adds label events, in any order, as often as one likes."""
        for row in rows:
            said = self.seqs[row.src, row.uri, row.cid, row.val]
            event = (row.cts_micros, row.neg, _NEVER if row.exp_micros is None else row.exp_micros)
            said[event] = max(said.get(event, _NO_SEQ), _NO_SEQ if row.seq is None else row.seq)

    def without(self, src: str) -> LabelModel:
        """The same without a labeler."""
        kept = LabelModel()
        kept.seqs.update({key: said for key, said in self.seqs.items() if key[0] != src})
        return kept

    @property
    def events(self) -> int:
        """The number of different events: rows of `pipeline.label_event`."""
        return sum(map(len, self.seqs.values()))

    def rows(self) -> dict[Key, ModelRow]:
        """All rows of `bsky.label`."""
        greatest: dict[Key, _Order] = {}
        negation: dict[tuple[str, str, str], _Order] = {}
        for key, said in self.seqs.items():
            orders = [_Order(cts, seq, neg, exp) for (cts, neg, exp), seq in said.items()]
            greatest[key] = max(orders)
            src, uri, _, val = key
            for order in orders:
                if order.neg:
                    negation[src, uri, val] = max(order, negation.get((src, uri, val), order))
        found = {}
        for key, last in greatest.items():
            src, uri, _, val = key
            ended_by = negation.get((src, uri, val))
            neg = ended_by is not None and ended_by >= last
            exp = None if neg or last.exp == _NEVER else iso_millis(last.exp)
            found[key] = ModelRow(neg, iso_millis(last.cts), exp)
        return found

    def in_effect(self, at_micros: int) -> dict[Key, ModelRow]:
        """The rows that are in effect at a moment."""
        now = iso_millis(at_micros)
        return {key: row for key, row in self.rows().items() if not row.neg and (row.exp is None or row.exp > now)}

    def not_negated(self) -> dict[str, int]:
        """`pipeline.labeler.in_effect`: rows that are not negated by labeler, those that have expired among them."""
        counts: dict[str, int] = defaultdict(int)
        for (src, *_), row in self.rows().items():
            counts[src] += not row.neg
        return dict(counts)


def iso_millis(micros: int) -> str:
    """A moment in microseconds since 1970 as `bsky.label` has it: ISO 8601 in UTC with milliseconds, cut off."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
