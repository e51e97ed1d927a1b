"""Lines of PLC exports, of accounts that are made up: signed operations that follow one another."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
from libipld import encode_dag_cbor

from appview_pipeline.identity.plc_operations import did_of, operation_cid
from appview_pipeline.protocol.signing import public_key_of, sign

BEGIN = datetime(2024, 1, 1)

Line = dict[str, Any]


def private_key(name: str) -> bytes:
    return sha256(name.encode()).digest()


def did_key(name: str) -> str:
    return public_key_of(private_key(name)).did_key()


def signed(operation: dict[str, Any], key: str) -> dict[str, Any]:
    """An operation with its signature by the private key of that name."""
    signature = sign(private_key(key), encode_dag_cbor(operation))
    return {**operation, "sig": urlsafe_b64encode(signature).decode().rstrip("=")}


@dataclass
class Directory:
    """A PLC directory's clock and what it has accepted, as lines of an export."""

    now: datetime = BEGIN
    lines: list[Line] = field(default_factory=list)

    def accept(self, did: str, operation: dict[str, Any]) -> Line:
        self.now += timedelta(seconds=1)
        line = {
            "did": did,
            "operation": operation,
            "cid": operation_cid(operation),
            "nullified": False,
            "createdAt": f"{self.now.isoformat(timespec='milliseconds')}Z",
        }
        self.lines.append(line)
        return line


class Account:
    """An account whose operations the key `server` signs; its key `recovery` is of higher authority."""

    def __init__(self, directory: Directory, name: str, *, legacy: bool = False) -> None:
        self.name = name
        self._directory = directory
        if legacy:
            first: dict[str, Any] = {
                "type": "create",
                "signingKey": did_key("server"),
                "recoveryKey": did_key("recovery"),
                "handle": f"{name}.test",
                "service": "pds.test",
                "prev": None,
            }
        else:
            first = self._operation(f"at://{name}.test", "https://pds.test", None)
        first = signed(first, "server")
        self.did = did_of(first)
        self.own = [directory.accept(self.did, first)]

    def _operation(self, handle: str, pds: str, previous: str | None) -> dict[str, Any]:
        return {
            "type": "plc_operation",
            "rotationKeys": [did_key("recovery"), did_key("server")],
            "verificationMethods": {"atproto": did_key("repository")},
            "alsoKnownAs": [handle],
            "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": pds}},
            "prev": previous,
        }

    def update(self, handle: str | None = None, pds: str = "https://pds.test", *, key: str = "server") -> Line:
        """The next operation."""
        return self._append(self._operation(f"at://{handle or self.name}.test", pds, self.own[-1]["cid"]), key)

    def tombstone(self) -> Line:
        return self._append({"type": "plc_tombstone", "prev": self.own[-1]["cid"]}, "server")

    def undo(self, handle: str) -> Line:
        """An operation by the recovery key in the place of all but the first one."""
        for line in self.own[1:]:
            line["nullified"] = True
        return self._append(self._operation(f"at://{handle}.test", "https://safe.test", self.own[0]["cid"]), "recovery")

    def _append(self, operation: dict[str, Any], key: str) -> Line:
        self.own.append(self._directory.accept(self.did, signed(operation, key)))
        return self.own[-1]


def written(lines: list[Line]) -> bytes:
    """Lines as the bytes of an export."""
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)
