"""Labels as labelers make them: fields, signature, frames. Written apart from the product, which reads them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import libipld

from appview_pipeline_tests.simulated_network.accounts import Key, sign

Label = dict[str, Any]
"""A label as it is on the wire, with `sig` as bytes. https://atproto.com/specs/label"""

_LABELS_HEADER = bytes(libipld.encode_dag_cbor({"op": 1, "t": "#labels"}))


def make_label(
    key: Key | None,
    *,
    src: str,
    uri: str,
    val: str,
    cts: str,
    cid: str | None = None,
    neg: bool = False,
    exp: str | None = None,
    says_not_negated: bool = False,
    extra: dict[str, Any] | None = None,
) -> Label:
    """A label, signed with `key` (None: unsigned).

    `says_not_negated`: `neg: false` is in it and under the signature, which ozone leaves out. `extra`: more fields,
    under the signature too; they also replace those that the other arguments make.
    """
    label: Label = {"ver": 1, "src": src, "uri": uri, "val": val, "cts": cts}
    if cid is not None:
        label["cid"] = cid
    if neg or says_not_negated:
        label["neg"] = neg
    if exp is not None:
        label["exp"] = exp
    if extra:
        label.update(extra)
    return label if key is None else sign_label(key, label)


def sign_label(key: Key, label: Label) -> Label:
    """The label with the signature of `key` over all its other fields."""
    unsigned = {name: value for name, value in label.items() if name != "sig"}
    return {**unsigned, "sig": sign(key, libipld.encode_dag_cbor(unsigned))}


def labels_frame(seq: int, labels: Sequence[Label]) -> bytes:
    """A `#labels` frame."""
    return _LABELS_HEADER + bytes(libipld.encode_dag_cbor({"seq": seq, "labels": list(labels)}))


def label_json(label: Label) -> dict[str, Any]:
    """The label as JSON of the protocol: bytes as `{"$bytes": ...}`."""
    return {
        name: {"$bytes": base64.b64encode(value).decode().rstrip("=")} if isinstance(value, bytes) else value
        for name, value in label.items()
    }


def label_key(label: Label) -> tuple[str, str, str, str]:
    """What one label replaces another by: source, subject, CID (empty: none) and value. What is no label: itself."""
    if not isinstance(label, dict):  # a fault that a test has asked for
        return "", "", "", repr(label)
    return str(label.get("src")), str(label.get("uri")), str(label.get("cid") or ""), str(label.get("val"))
