"""Operations of the PLC directory: what document they make, and whether a log of them is valid.

The specification is https://web.plc.directory/spec/v0.1/did-plc. An operation is the JSON object that an account's
server signed: `plc_operation`, `plc_tombstone`, or the old `create`. It is signed, and named by its CID, as
DAG-CBOR. A DID is a part of the hash of its first operation.
"""

from __future__ import annotations

import re
from base64 import b32encode, urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

from libipld import encode_dag_cbor

from appview_pipeline.identity.documents import PDS, SIGNING_KEY
from appview_pipeline.protocol import cid, signing
from appview_pipeline.protocol.signing import InvalidKey, PublicKey
from appview_pipeline.protocol.syntax import datetime_to_micros

RECOVERY = timedelta(hours=72)
"""How long a rotation key of higher authority may undo an operation."""
MAX_OPERATIONS = 10_000
"""Limit of the operations of one log that is verified."""

_CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"]
_SUITES = {  # by the beginning of the key
    "zQ3": "https://w3id.org/security/suites/secp256k1-2019/v1",
    "zDn": "https://w3id.org/security/suites/ecdsa-2019/v1",
}
# 64 bytes in base64url: the last of 86 characters has four bits to spare, which must be zero.
_match_signature = re.compile(r"[A-Za-z0-9_-]{85}[AQgw]").fullmatch

Operation = Mapping[str, Any]


class InvalidOperation(ValueError):
    """A value that is no operation, or an operation that is not valid where it stands; the message says why."""


# --- documents -------------------------------------------------------------------------------------------------------


def document_of(did: str, operation: object) -> dict[str, Any] | None:
    """The DID document that an operation makes, as the directory writes it; None for a tombstone.

    Neither its signature nor its place in the log is looked at. Raises InvalidOperation.
    """
    kind = _kind(operation)
    assert isinstance(operation, Mapping)
    if kind == "plc_tombstone":
        return None
    if kind == "create":
        names = [_with_prefix(_text(operation, "handle"), "at://")]
        keys = {SIGNING_KEY: _text(operation, "signingKey")}
        services = {PDS[0]: (PDS[1], _with_prefix(_text(operation, "service"), "https://"))}
    else:
        names = _names(operation)
        keys = _keys(operation)
        services = _services(operation)
    # The suites stand in the order of the keys, and each once.
    suites = dict.fromkeys(_SUITES[key[8:11]] for key in keys.values() if key[8:11] in _SUITES)
    return {
        "@context": [*_CONTEXT, *suites] if keys else _CONTEXT[:1],
        "id": did,
        "alsoKnownAs": names,
        "verificationMethod": [
            {"id": f"{did}#{name}", "type": "Multikey", "controller": did, "publicKeyMultibase": key[8:]}
            for name, key in keys.items()
        ],
        "service": [
            {"id": f"#{name}", "type": kind, "serviceEndpoint": endpoint} for name, (kind, endpoint) in services.items()
        ],
    }


def _kind(operation: object) -> str:
    if not isinstance(operation, Mapping):
        raise InvalidOperation("the operation is no JSON object")
    kind = operation.get("type")
    if kind not in ("plc_operation", "plc_tombstone", "create"):
        raise InvalidOperation("the operation is of a type that is not known")
    return str(kind)


def _text(operation: Operation, name: str) -> str:
    value = operation.get(name)
    if not isinstance(value, str):
        raise InvalidOperation(f"the operation's `{name}` is no text")
    return value


def _names(operation: Operation) -> list[str]:
    names = operation.get("alsoKnownAs")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidOperation("the operation's `alsoKnownAs` is no list of text")
    return names


def _keys(operation: Operation) -> dict[str, str]:
    keys = operation.get("verificationMethods")
    if not isinstance(keys, dict) or not all(
        isinstance(key, str) and key.startswith("did:key:") for key in keys.values()
    ):
        raise InvalidOperation("the operation's `verificationMethods` are no keys (did:key)")
    return keys


def _services(operation: Operation) -> dict[str, tuple[str, str]]:
    services = operation.get("services")
    if isinstance(services, dict):
        try:
            found = {name: (service["type"], service["endpoint"]) for name, service in services.items()}
        except (TypeError, KeyError):
            pass
        else:
            if all(isinstance(kind, str) and isinstance(endpoint, str) for kind, endpoint in found.values()):
                return found
    raise InvalidOperation("the operation's `services` are no services with a type and an endpoint")


def _with_prefix(text: str, prefix: str) -> str:
    """Names and addresses of the old operations have a prefix or not; the directory adds it."""
    if prefix == "https://":
        return text if text.startswith(("http://", "https://")) else prefix + text
    return text if text.startswith(prefix) else prefix + text.replace("http://", "", 1).replace("https://", "", 1)


# --- signatures ------------------------------------------------------------------------------------------------------


def rotation_keys(operation: Operation) -> tuple[str, ...]:
    """The keys (did:key) that may sign the next operation, the highest authority first. Raises InvalidOperation."""
    kind = _kind(operation)
    if kind == "plc_tombstone":
        return ()
    keys = operation.get("rotationKeys")
    if kind == "create":
        keys = [operation.get("recoveryKey"), operation.get("signingKey")]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InvalidOperation("the operation's rotation keys are no list of keys")
    return tuple(keys)


def previous_of(operation: Operation) -> str | None:
    """The CID of the operation that this one follows; None for the first of a DID. Raises InvalidOperation."""
    kind, previous = _kind(operation), operation.get("prev")
    if previous is not None and not isinstance(previous, str):
        raise InvalidOperation("the operation's `prev` is no CID")
    if (kind == "create" and previous is not None) or (kind == "plc_tombstone" and previous is None):
        raise InvalidOperation("the operation's `prev` does not fit its type")
    return previous


def operation_cid(operation: Operation) -> str:
    """The CID of a signed operation. Raises InvalidOperation."""
    return cid.to_text(cid.cid_for_cbor(_encoded(operation)))


def did_of(operation: Operation) -> str:
    """The DID whose first operation this is. Raises InvalidOperation."""
    return "did:plc:" + b32encode(sha256(_encoded(operation)).digest()).decode("ascii").lower()[:24]


def signer_of(operation: Operation, keys: Sequence[str]) -> int:
    """Which of `keys` (did:key) signed an operation, the first of equal ones. Raises InvalidOperation if none did.

    The signature has one spelling: 64 bytes, low s, in base64url without padding.
    """
    text = operation.get("sig")
    if not isinstance(text, str) or _match_signature(text) is None:
        raise InvalidOperation("the operation's signature is not 64 bytes in base64url without padding")
    signature = urlsafe_b64decode(text + "==")
    message = _encoded({name: value for name, value in operation.items() if name != "sig"})
    for place, key in enumerate(keys):
        parsed = _parsed(key)
        if parsed is not None and signing.verify(parsed, message, signature):
            return place
    raise InvalidOperation("the operation's signature is by none of the rotation keys that may sign it")


def _encoded(operation: Operation) -> bytes:
    try:
        encoded: bytes = encode_dag_cbor(operation)
    except (ValueError, TypeError) as error:
        raise InvalidOperation(f"the operation can't be written as DAG-CBOR: {str(error)[:200]!a}") from None
    return encoded


@lru_cache(maxsize=20_000)
def _parsed(key: str) -> PublicKey | None:
    try:
        return signing.parse_did_key(key)
    except InvalidKey:
        return None


# --- logs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogEntry:
    """An operation in a directory's log: its CID, when the directory accepted it (ISO), and whether a later one undid
    it (None: the log does not say)."""

    operation: Operation
    cid: str
    created_at: str
    nullified: bool | None = None


@dataclass(frozen=True)
class _Accepted:
    entry: LogEntry
    at: datetime
    signer: int


def verify_first(did: str, operation: Operation) -> int:
    """The place of the key that signed the first operation of a DID, among its own. Raises InvalidOperation."""
    if previous_of(operation) is not None:
        raise InvalidOperation("the first operation follows another one")
    if did_of(operation) != did:
        raise InvalidOperation("the first operation's hash is that of another DID")
    return signer_of(operation, rotation_keys(operation))


def verify_log(did: str, entries: Sequence[LogEntry]) -> Operation:
    """Verifies a DID's whole log, oldest first, and gives the operation that counts now: the last one that no other
    undid.

    Verified are the DID, which is the hash of the first operation; every CID; every signature, by a rotation key of the
    operation before; that an operation follows one that counted then; that one which undoes others is signed by a
    key of higher authority than the first of them, and came within 72 hours of it; and which operations are marked as
    nullified. Raises InvalidOperation with the number of the entry and the reason.
    """
    if not entries:
        raise InvalidOperation("the log is empty")
    if len(entries) > MAX_OPERATIONS:
        raise InvalidOperation(f"the log has more than {MAX_OPERATIONS:,} operations")
    accepted: list[_Accepted] = []
    undone: set[str] = set()
    for number, entry in enumerate(entries, 1):
        try:
            _accept(did, entry, accepted, undone)
        except InvalidOperation as error:
            raise InvalidOperation(f"operation {number}: {error}") from None
    for number, entry in enumerate(entries, 1):
        if entry.nullified is not None and entry.nullified != (entry.cid in undone):
            marked = "is marked as nullified, but was not" if entry.nullified else "was nullified, but is not marked so"
            raise InvalidOperation(f"operation {number}: it {marked}")
    return accepted[-1].entry.operation


def _accept(did: str, entry: LogEntry, accepted: list[_Accepted], undone: set[str]) -> None:
    """Adds an entry to those that count, and takes those that it undoes from them. Raises InvalidOperation."""
    operation = entry.operation
    if operation_cid(operation) != entry.cid:
        raise InvalidOperation("its CID is not that of its content")
    at = _moment(entry.created_at)
    if not accepted:
        accepted.append(_Accepted(entry, at, verify_first(did, operation)))
        return
    if at < accepted[-1].at:
        raise InvalidOperation("it is older than the one before it")
    previous = previous_of(operation)
    if previous is None:
        raise InvalidOperation("it is a second first operation")
    place = next((place for place, it in enumerate(accepted) if it.entry.cid == previous), None)
    if place is None:
        raise InvalidOperation("it follows an operation that is not in the log, or that was nullified")
    before, later = accepted[place], accepted[place + 1 :]
    if before.entry.operation["type"] == "plc_tombstone":
        raise InvalidOperation("it follows a tombstone")
    keys = rotation_keys(before.entry.operation)
    if later:
        if at - later[0].at > RECOVERY:
            raise InvalidOperation("it undoes an operation that is more than 72 hours old")
        keys = keys[: later[0].signer]  # of higher authority than the key that signed the first of them
    signer = signer_of(operation, keys)
    undone.update(it.entry.cid for it in later)
    del accepted[place + 1 :]
    accepted.append(_Accepted(entry, at, signer))


def _moment(text: str) -> datetime:
    micros = datetime_to_micros(text)
    if micros is None:
        raise InvalidOperation("the time at which it was accepted is no datetime")
    return datetime(1970, 1, 1) + timedelta(microseconds=micros)
