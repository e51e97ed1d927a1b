"""Labels as `store.labels.apply_labels` takes them, and applying them to a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from appview_pipeline.protocol.syntax import datetime_to_micros
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelBatch, LabelReport, LabelRow, apply_labels


def label_row(
    src: str,
    uri: str,
    val: str,
    *,
    cid: str = "",
    neg: bool = False,
    cts: str = "2025-06-15T15:06:40.000Z",
    exp: str | None = None,
    seq: int | None = None,
) -> LabelRow:
    """A label, or its negation, without a signature."""
    cts_micros = datetime_to_micros(cts)
    assert cts_micros is not None
    return LabelRow(
        src=src,
        uri=uri,
        cid=cid,
        val=val,
        neg=neg,
        cts=cts,
        cts_micros=cts_micros,
        exp=exp,
        exp_micros=None if exp is None else datetime_to_micros(exp),
        seq=seq,
        sig=None,
        signed=None,
    )


def rows_of_wire(seq: int | None, labels: Iterable[Any]) -> list[LabelRow]:
    """The labels of a frame of `com.atproto.label.subscribeLabels`, as decoded from it or from JSON."""
    return [
        label_row(
            it["src"],
            it["uri"],
            it["val"],
            cid=it.get("cid", ""),
            neg=it.get("neg", False),
            cts=it["cts"],
            exp=it.get("exp"),
            seq=seq,
        )
        for it in labels
    ]


def apply_rows(database: Database, rows: Sequence[LabelRow]) -> LabelReport:
    """Applies them in a transaction of its own."""
    with database.connect("writer") as connection:
        return apply_labels(connection, LabelBatch(rows))
