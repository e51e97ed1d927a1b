"""Label events as labelers may make them, and ways in which they may arrive: in any order and batches, repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.support.label_model import Key, ModelRow, iso_millis
from appview_pipeline_tests.support.tables import rows

NOW = 1_750_000_000_000_000
# One millisecond with three moments in it, its neighbours, years far away and before 1970.
_TIMES = (NOW, NOW + 1, NOW + 999, NOW + 1_000, NOW - 1, NOW + 5_000_000, -62_135_596_800_000_000, -1, 0)
_FAR = 253_402_300_799_999_999
_SUBJECTS = ("did:plc:" + "s" * 24, "at://did:plc:" + "s" * 24 + "/app.bsky.feed.post/a")
_CIDS = ("", "bafyone", "bafytwo")


def _row(source: str, uri: str, cid: str, val: str, neg: bool, cts: int, exp: int | None, seq: int | None) -> LabelRow:
    return LabelRow(
        src=f"did:plc:{source * 24}",
        uri=uri,
        cid=cid,
        val=val,
        neg=neg,
        cts=iso_millis(cts),
        cts_micros=cts,
        exp=None if exp is None else iso_millis(exp),
        exp_micros=exp,
        seq=seq,
        sig=None,
        signed=None,
    )


@dataclass(frozen=True)
class Delivery:
    """Label events in batches, some of them more than once."""

    batches: list[list[LabelRow]]

    @property
    def events(self) -> list[LabelRow]:
        return [row for batch in self.batches for row in batch]


def delivery(seed: int) -> Delivery:
    """A delivery of the labelers `did:plc:a...` and `did:plc:b...`; two of three are of one (src, uri, val), because
    only such events decide about each other."""
    rng = Random(seed)
    many = 1 if rng.random() < 0.67 else 2
    # Few, so that many are the same, and often of one millisecond.
    times = rng.choice((_TIMES[:2], _TIMES[:4], rng.sample(_TIMES, rng.randint(1, 4))))
    events = [
        _row(
            rng.choice("ab"[:many]),
            rng.choice(_SUBJECTS[:many]),
            rng.choice(_CIDS),
            rng.choice(("spam", "!hide")[:many]),
            rng.random() < 0.4,
            rng.choice(times),
            rng.choice((None, None, NOW, NOW + 500, _FAR)),
            rng.choice((None, 0, 1, 2, 3)),
        )
        for _ in range(rng.randint(1, 12))
    ]
    # An event that comes again may have another number.
    events += [rng.choice(events)._replace(seq=rng.choice((None, 0, 1, 2, 3, 4))) for _ in range(rng.randint(0, 4))]
    rng.shuffle(events)
    edges = sorted(rng.randint(0, len(events)) for _ in range(rng.randint(0, 6)))
    parts = pairwise([0, *edges, len(events)])
    return Delivery([events[start:end] for start, end in parts if end > start])


def of_sources(batch: Sequence[LabelRow], number: int) -> list[LabelRow]:
    """The same label events of labelers of an example's own, so that examples can share a database."""
    return [row._replace(src=f"did:plc:{row.src[8]}{number:023}") for row in batch]


def stored_rows(database: Database, number: int) -> dict[Key, ModelRow]:
    """The rows of `bsky.label` of an example."""
    found = rows(
        database.url,
        "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label WHERE right(src, 23) = %s",
        f"{number:023}",
    )
    return {(src, uri, cid, val): ModelRow(neg, cts, exp) for src, uri, cid, val, neg, cts, exp in found}


@dataclass
class Listener:
    """Somebody who applies the label feed in the order of its ids and knows nothing else: a label sets its key, a
    negation ends every cid of (src, uri, val)."""

    database: Database
    number: int
    after: int = 0
    labels: dict[Key, tuple[str, str | None]] = field(default_factory=dict)

    def read(self) -> None:
        """Applies what has come since."""
        found = rows(
            self.database.url,
            "SELECT id, src, uri, cid, val, neg, cts, exp FROM pipeline.label_event "
            "WHERE id > %s AND took_effect AND right(src, 23) = %s ORDER BY id",
            self.after,
            f"{self.number:023}",
        )
        for number, src, uri, cid, val, neg, cts, exp in found:
            self.after = number
            if neg:
                ended = [key for key in self.labels if (key[0], key[1], key[3]) == (src, uri, val)]
                for key in ended:
                    del self.labels[key]
            else:
                self.labels[src, uri, cid, val] = (cts, exp)
