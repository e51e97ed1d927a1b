"""A label out of the database, to be given out again as its labeler made it."""

from __future__ import annotations

from typing import Protocol

from appview_pipeline.protocol.label import Label


class StoredLabel(Protocol):
    """What all rows of `pipeline.label_event` have, whatever they were read for. `cid` is empty for any version."""

    @property
    def src(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def cid(self) -> str: ...
    @property
    def val(self) -> str: ...
    @property
    def neg(self) -> bool: ...
    @property
    def cts(self) -> str: ...
    @property
    def exp(self) -> str | None: ...
    @property
    def sig(self) -> bytes | None: ...
    @property
    def signed(self) -> bytes | None: ...


def label_to_send(row: StoredLabel) -> Label:
    """The label for `as_wire` and `as_json`; its moments, which neither of them gives out, are left out."""
    return Label(
        src=row.src,
        uri=row.uri,
        cid=row.cid or None,
        val=row.val,
        neg=row.neg,
        cts=row.cts,
        exp=row.exp,
        sig=row.sig,
        cts_micros=0,
        exp_micros=None,
        signed=row.signed,
    )
