"""What a labeler may say, drawn from a seed: duplicates, negations with other CIDs, expiries, many labels of one
millisecond, times in any order and in any spelling."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.syntax import datetime_to_micros
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.simulated_network.labelers import Labeler
from appview_pipeline_tests.simulated_network.labels import Label, sign_label

VALUES = ("spam", "rude", "!warn", "ünïcode", "x" * 128)
EXPIRIES = ("2025-03-01T00:00:00.000Z", "2025-03-01T00:00:00.001Z", "2099-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z")
_START = datetime(2025, 1, 1, tzinfo=timezone.utc)
_SPELLINGS = ("{:%Y-%m-%dT%H:%M:%S}.{millis:03d}Z", "{:%Y-%m-%dT%H:%M:%S}.{millis:03d}000+00:00")
CIDS = tuple(cid.to_text(cid.cid_for_cbor(bytes((number,)))) for number in range(3))


def random_labels(labeler: Labeler, count: int, rng: Random) -> Iterator[Label]:
    """`count` signed labels and negations of a labeler.

    One in three is about a key (subject, CID, value) that had a label before. The moments of a labeler are few, so that
    many labels have the same one.
    """
    subjects = [_subject(rng, number) for number in range(max(1, count // 4))]
    moments = [_START + timedelta(milliseconds=rng.randrange(10**10)) for _ in range(max(1, count // 20))]
    recent: list[Label] = []
    for _ in range(count):
        draw = rng.random()
        if recent and draw < 0.05:
            yield sign_label(labeler.key, rng.choice(recent))  # the key may be another one by now
            continue
        if recent and draw < 0.35:
            earlier = rng.choice(recent)
            fields: dict[str, Any] = {"uri": earlier["uri"], "val": earlier["val"], "cid": earlier.get("cid")}
            if draw < 0.15:
                fields["cid"] = rng.choice((None, *CIDS))
            fields["neg"] = draw < 0.27
        else:
            fields = {"uri": rng.choice(subjects), "val": rng.choice(VALUES)}
            fields["cid"] = rng.choice((None, None, *CIDS)) if fields["uri"].startswith("at:") else None
        if rng.random() < 0.1:
            fields["exp"] = rng.choice(EXPIRIES)
        label = labeler.make(cts=_spelled(rng, rng.choice(moments)), **fields)
        recent.append(label)
        if len(recent) > 500:
            del recent[:250]
        yield label


def _subject(rng: Random, number: int) -> str:
    did = f"did:plc:subject{number:017d}"
    return did if rng.random() < 0.3 else f"at://{did}/app.bsky.feed.post/3k{number:011d}"


def _spelled(rng: Random, moment: datetime) -> str:
    """A moment as text; the one in microseconds differs from that in milliseconds in its text alone."""
    return rng.choice(_SPELLINGS).format(moment, millis=moment.microsecond // 1_000)


def label_row(label: Label, seq: int) -> LabelRow:
    """The row of `pipeline.label_event` that a valid label becomes."""
    made, exp = datetime_to_micros(label["cts"]), label.get("exp")
    assert made is not None
    return LabelRow(
        src=label["src"],
        uri=label["uri"],
        cid=label.get("cid") or "",
        val=label["val"],
        neg=label.get("neg", False),
        cts=label["cts"],
        cts_micros=made,
        exp=exp,
        exp_micros=None if exp is None else datetime_to_micros(exp),
        seq=seq,
        sig=label["sig"],
        signed=None,
    )
