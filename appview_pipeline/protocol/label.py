"""Labels: what a labeler says of an account or a record, or takes back (https://atproto.com/specs/label).

A label is read once, from a frame of `com.atproto.label.subscribeLabels` or from a request of our own, and checked so
far that it can be stored, served again and ordered by its time. Whether its source is the labeler that sent it is for
the caller, who knows the labeler.

**What is signed** is the DAG-CBOR of the label in version 1, with its fields in canonical order, without `sig` and
`$type`, and without `neg` unless it is true. Not every labeler keeps to that: a widely used library signs `neg: false`,
and others sign fields of their own. Such a label means the same, so it is accepted, and keeps the bytes that were
signed (`Label.signed`): without them nobody could check it again.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from libipld import decode_dag_cbor, encode_dag_cbor

from appview_pipeline.protocol.cbor import InvalidRecord, decode_record_json
from appview_pipeline.protocol.cid import is_parsable
from appview_pipeline.protocol.commit import FUTURE_TOLERANCE
from appview_pipeline.protocol.signing import VerifyingKey, sign
from appview_pipeline.protocol.syntax import datetime_to_micros, is_cid, is_datetime, is_did, is_uri

VERSION = 1
"""The only version of labels."""
MAX_VALUE = 128
"""Bytes of a label's value (specification)."""
MAX_NAMES = 2_000
"""Bytes of source, subject, CID and value together: they are in one B-tree index."""
MAX_SIGNED = 10_000
"""Bytes that a signature is over, where they are kept: a label with fields of its own may be as large as a frame."""

_FIRST_MICROS = -62_135_596_800_000_000
"""The year 1. Readers written in other languages have no earlier ones."""


class InvalidLabel(ValueError):
    """A label that is rejected. `kind` is a short constant to count by, `reason` says it in words.

    Kinds: `label-syntax`, `label-version`, `label-limit`, `label-future`; and `label-source`, `label-signature` and
    `label-unsigned`, which only callers who know the labeler can find.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Label:
    """One label or negation as its labeler said it.

    `cts` (made) and `exp` (expires) are the text as sent, `cts_micros` and `exp_micros` the same moments in
    microseconds from 1970, cut and not rounded. `sig` is the signature as sent, of any length. `signed` are the bytes
    under the signature where they are not those of `canonical_bytes`; `verify_label` finds them.
    """

    src: str
    uri: str
    cid: str | None
    val: str
    neg: bool
    cts: str
    exp: str | None
    sig: bytes | None
    cts_micros: int
    exp_micros: int | None
    signed: bytes | None = None


def read_label(value: object, now_micros: int) -> Label:
    """A label as decoded from CBOR. Raises InvalidLabel, and nothing else, whatever the value.

    Checked: version 1; `src` is a DID, `uri` any URI (as the lexicon has it: mostly an AT URI or a DID), `cid` the text
    of a CID, `val` 1 to 128 bytes, `neg` a boolean, `cts` and `exp` datetimes of the years 1 to 9999; no NUL; the
    limits above; `cts` at most `FUTURE_TOLERANCE` after `now_micros`, the present in microseconds from 1970. An
    optional field that is null counts as absent. Unknown fields are ignored, whatever they hold.
    """
    if not isinstance(value, dict):
        raise InvalidLabel("label-syntax", "label is not a map")
    label = _read(value)
    if label.cts_micros > now_micros + FUTURE_TOLERANCE:
        raise InvalidLabel("label-future", f"cts ({label.cts}) is in the future")
    return label


def canonical_bytes(label: Label) -> bytes:
    """The bytes that a signature of the label is over, as the specification has them."""
    encoded: bytes = encode_dag_cbor(_fields(label))
    return encoded


def verify_label(key: VerifyingKey, label: Label, value: Mapping[str, Any]) -> Label | None:
    """The label, if its signature is by `key`; None if it is not, or if it has none. `value` is the label as decoded.

    What counts as signed: the canonical bytes; the same with `neg: false`; the label as sent, without `sig` and
    `$type`. With one of the latter two, the label comes with `signed`. Raises InvalidLabel (`label-limit`) where these
    are too large to keep.
    """
    if label.sig is None or len(label.sig) != 64:
        return None
    canonical = canonical_bytes(label)
    candidates = [canonical] if label.neg else [canonical, _with_neg_false(label)]
    if value.get("neg") is False:  # a labeler that sends it has signed it, mostly
        candidates.reverse()
    for message in candidates:
        if key.verify(message, label.sig):
            return label if message is canonical else replace(label, signed=message)
    message = encode_label({name: field for name, field in value.items() if name not in ("sig", "$type")})
    if not message or message in candidates or not key.verify(message, label.sig):
        return None
    if len(message) > MAX_SIGNED:
        reason = f"{len(message):,} bytes are signed, with fields that labels don't have; the limit is {MAX_SIGNED:,}"
        raise InvalidLabel("label-limit", reason)
    return replace(label, signed=message)


def sign_label(
    private_key: bytes,
    *,
    src: str,
    uri: str,
    val: str,
    cid: str | None = None,
    neg: bool = False,
    cts: str,
    exp: str | None = None,
) -> Label:
    """A label with its signature by a secp256k1 private key (32 bytes). Raises InvalidLabel as `read_label` does, but
    for a time in the future."""
    fields = {"ver": VERSION, "src": src, "uri": uri, "cid": cid, "val": val, "neg": neg, "cts": cts, "exp": exp}
    label = _read(fields)
    return replace(label, sig=sign(private_key, canonical_bytes(label)))


def as_wire(label: Label) -> dict[str, Any]:
    """The label as a frame has it: its fields, `ver` and `sig`; whoever encodes it gets the bytes that were signed."""
    wire: dict[str, Any] = _fields(label) if label.signed is None else decode_dag_cbor(label.signed)
    if label.sig is not None:
        wire["sig"] = label.sig
    return wire


def as_json(label: Label) -> dict[str, Any]:
    """The same in the protocol's JSON form, as in an answer of `com.atproto.label.queryLabels`.

    `sig` is `{"$bytes": "<base64>"}`. Where what was signed has no JSON form (a float, say), the fields are left out
    that labels don't have.
    """
    fields = _fields(label)
    if label.signed is not None:
        with suppress(InvalidRecord):
            fields = json.loads(decode_record_json(label.signed)[1])
    if label.sig is not None:
        fields["sig"] = {"$bytes": b64encode(label.sig).rstrip(b"=").decode("ascii")}
    return fields


def encode_label(value: object) -> bytes:
    """A label as decoded from a frame, rejected or not, as DAG-CBOR; empty where it can't be encoded."""
    try:
        encoded: bytes = encode_dag_cbor(value)
    except (ValueError, RecursionError):
        return b""
    return encoded


def decode_label(block: bytes) -> object:
    """What `encode_label` encoded. Raises InvalidLabel."""
    try:
        value: object = decode_dag_cbor(block)
    except (ValueError, RecursionError) as error:
        raise InvalidLabel("label-syntax", f"label is not DAG-CBOR: {error}") from None
    return value


def _fields(label: Label) -> dict[str, Any]:
    """The fields that are signed."""
    fields: dict[str, Any] = {
        "ver": VERSION,
        "src": label.src,
        "uri": label.uri,
        "val": label.val,
        "cts": label.cts,
    }
    if label.cid is not None:
        fields["cid"] = label.cid
    if label.neg:
        fields["neg"] = True
    if label.exp is not None:
        fields["exp"] = label.exp
    return fields


def _with_neg_false(label: Label) -> bytes:
    """The bytes that some libraries sign for a label that is no negation."""
    encoded: bytes = encode_dag_cbor({**_fields(label), "neg": False})
    return encoded


def _read(value: Mapping[Any, Any]) -> Label:
    """A label of whatever time. Raises InvalidLabel."""
    get = value.get
    version = get("ver")
    if type(version) is not int or version != VERSION:
        raise InvalidLabel("label-version", "label without a version" if version is None else "label is not version 1")
    src, uri, cid, val = get("src"), get("uri"), get("cid"), get("val")
    if type(src) is not str or not is_did(src):
        raise InvalidLabel("label-syntax", "src is not a DID")
    if type(uri) is not str or "\0" in uri or not is_uri(uri):
        raise InvalidLabel("label-syntax", "uri is not a URI")
    if type(val) is not str or not val or "\0" in val:
        raise InvalidLabel("label-syntax", "val is not a text, or an empty one, or has NUL in it")
    if cid is not None and (type(cid) is not str or not is_cid(cid) or not is_parsable(cid)):
        raise InvalidLabel("label-syntax", "cid is not a CID")
    neg, sig = get("neg"), get("sig")
    if neg is not None and type(neg) is not bool:
        raise InvalidLabel("label-syntax", "neg is not a boolean")
    if sig is not None and type(sig) is not bytes:
        raise InvalidLabel("label-syntax", "sig is not a byte string")
    cts, exp = get("cts"), get("exp")
    if type(cts) is not str or (exp is not None and type(exp) is not str):
        raise InvalidLabel("label-syntax", "cts is not a datetime, or exp is neither absent nor one")
    cts_micros = _micros(cts, "cts")
    exp_micros = None if exp is None else _micros(exp, "exp")
    size = _bytes(val, "val")
    if size > MAX_VALUE:
        raise InvalidLabel("label-limit", f"val of {size:,} bytes; the limit is {MAX_VALUE}")
    size += len(src) + _bytes(uri, "uri") + len(cid or "")
    if size > MAX_NAMES:
        raise InvalidLabel("label-limit", f"src, uri, cid and val of {size:,} bytes; the limit is {MAX_NAMES:,}")
    # By position, against our rule: keywords cost time, and there are 10,000 labels a second.
    return Label(src, uri, cid, val, neg is True, cts, exp, sig, cts_micros, exp_micros)


def _micros(text: str, name: str) -> int:
    """The moment of a datetime. Raises InvalidLabel."""
    micros = datetime_to_micros(text) if is_datetime(text) else None
    if micros is None or micros < _FIRST_MICROS:
        raise InvalidLabel("label-syntax", f"{name} is not a datetime of the years 1 to 9999")
    return micros


def _bytes(text: str, name: str) -> int:
    """The bytes of a text in UTF-8. Raises InvalidLabel."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # half a character, in JSON
        raise InvalidLabel("label-syntax", f"{name} is not Unicode") from None
