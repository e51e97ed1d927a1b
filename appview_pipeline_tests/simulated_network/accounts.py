"""Accounts: keys, did:plc identifiers with their real operation logs, and DID documents."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import libipld
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appview_pipeline.protocol import cid
from appview_pipeline_tests.simulated_network.content import iso

HANDLE_DOMAIN = "simnet.test"
_SEED = "simnet account"
"""Both names are in the bytes of every world, which benchmarks of different versions share."""
_NAMES = (
    "alice",
    "bob",
    "carla",
    "dan",
    "eve",
    "farid",
    "grace",
    "hiro",
    "ines",
    "jonas",
    "kim",
    "lena",
    "maya",
    "noor",
)
_SECP256K1_MULTICODEC = b"\xe7\x01"
_P256_MULTICODEC = b"\x80\x24"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_P256_SIGNS = ec.ECDSA(SHA256(), deterministic_signing=True)

Key = PrivateKey | ec.EllipticCurvePrivateKey
"""A signing key: of secp256k1, or of P-256."""


def make_key(text: str, *, p256: bool = False) -> Key:
    """The private key that follows from a text."""
    secret = hashlib.sha256(text.encode()).digest()
    if p256:
        return ec.derive_private_key(int.from_bytes(secret, "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    return PrivateKey(secret)


def sign(key: Key, message: bytes) -> bytes:
    """The 64-byte compact, low-S signature (RFC 6979, so the same each time) over the SHA-256 of `message`."""
    if isinstance(key, PrivateKey):
        return bytes(key.sign_recoverable(message)[:64])
    r, s = decode_dss_signature(key.sign(message, _P256_SIGNS))
    return r.to_bytes(32, "big") + min(s, _P256_ORDER - s).to_bytes(32, "big")


def multikey(key: Key) -> str:
    """Multibase text of the public key, as in a Multikey."""
    if isinstance(key, PrivateKey):
        point = _SECP256K1_MULTICODEC + key.public_key.format(compressed=True)
    else:
        point = _P256_MULTICODEC + key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return str(libipld.encode_multibase("z", point))


class Account:
    """One account's identity. Its DID is the hash of its genesis operation, as did:plc asks, and so depends on `seed`
    and `index` alone; where its PDS listens is a later operation of the log. A negative `index` is that of a ghost,
    which writes a history and is never announced. `home` is the number of its PDS; `left` has the status that it has
    at those where it was before. `p256`: its key is of that curve, and its DID therefore another one. `labels_url` and
    `label_key` are the server of its labels and the key that signs them, of a labeler alone.
    """

    __slots__ = (
        "active",
        "created",
        "did",
        "handle",
        "home",
        "index",
        "key",
        "label_key",
        "labels_url",
        "left",
        "log",
        "status",
    )

    def __init__(self, seed: int, index: int, created: int, *, p256: bool = False) -> None:
        self.index = index
        self.created = created
        self.handle = f"{_NAMES[index % len(_NAMES)]}{index}.{HANDLE_DOMAIN}"
        self.key: Key = make_key(f"{_SEED} {seed} {index}", p256=p256)
        self.active = True
        self.status: str | None = None
        self.home = 0
        self.left: dict[int, str] = {}
        self.labels_url: str | None = None
        self.label_key: Key | None = None
        genesis = self._signed(self._operation(f"https://pds.{HANDLE_DOMAIN}", None))
        digest = hashlib.sha256(libipld.encode_dag_cbor(genesis)).digest()
        self.did = "did:plc:" + base64.b32encode(digest).decode().lower()[:24]
        self.log: list[tuple[int, dict[str, Any]]] = [(created, genesis)]  # (time in microseconds, signed operation)

    @property
    def public_key(self) -> str:
        """Multibase text of the signing key, as in a Multikey."""
        return multikey(self.key)

    def _operation(self, pds_url: str, prev: str | None) -> dict[str, Any]:
        key = f"did:key:{self.public_key}"
        keys = {"atproto": key}
        services = {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": pds_url}}
        if self.label_key is not None:
            keys["atproto_label"] = f"did:key:{multikey(self.label_key)}"
        if self.labels_url is not None:
            services["atproto_labeler"] = {"type": "AtprotoLabeler", "endpoint": self.labels_url}
        return {
            "type": "plc_operation",
            "rotationKeys": [key],
            "verificationMethods": keys,
            "alsoKnownAs": [f"at://{self.handle}"],
            "services": services,
            "prev": prev,
        }

    def _signed(self, operation: dict[str, Any]) -> dict[str, Any]:
        signature = sign(self.key, libipld.encode_dag_cbor(operation))
        return operation | {"sig": base64.urlsafe_b64encode(signature).decode().rstrip("=")}

    def _head(self) -> str:
        return cid.to_text(cid.cid_for_cbor(libipld.encode_dag_cbor(self.log[-1][1])))

    @property
    def tombstoned(self) -> bool:
        return bool(self.log[-1][1]["type"] == "plc_tombstone")

    def rename(self, handle: str, when: int) -> None:
        """A new handle, in the log too. `when` in microseconds."""
        self.handle = handle
        endpoint = self.log[-1][1]["services"]["atproto_pds"]["endpoint"]
        self._append(when, self._operation(endpoint, self._head()))

    def settle_at(self, pds_url: str, when: int | None = None) -> None:
        """Makes `pds_url` the account's PDS, by an operation of the log when it is not already.

        `when` in microseconds; None: a millisecond after the operation before.
        """
        last = self.log[-1][1]
        if not self.tombstoned and last["services"]["atproto_pds"]["endpoint"] != pds_url:
            self._append(when or 0, self._operation(pds_url, self._head()))

    def label_from(self, url: str | None, key: Key | None, when: int) -> None:
        """Its document names a server of labels, and a key that signs them; None: it names none. `when` in
        microseconds."""
        self.labels_url, self.label_key = url, key
        endpoint = self.log[-1][1]["services"]["atproto_pds"]["endpoint"]
        self._append(when, self._operation(endpoint, self._head()))

    def tombstone(self, when: int) -> None:
        self._append(when, {"type": "plc_tombstone", "prev": self._head()})

    def _append(self, when: int, operation: dict[str, Any]) -> None:
        """Adds an operation to the log. A directory accepts no two of an account in the same millisecond."""
        self.log.append((max(when, self.log[-1][0] + 1_000), self._signed(operation)))

    def audit_log(self) -> list[dict[str, Any]]:
        """The log as `GET /{did}/log/audit` answers it."""
        return [
            {
                "did": self.did,
                "operation": operation,
                "cid": cid.to_text(cid.cid_for_cbor(libipld.encode_dag_cbor(operation))),
                "nullified": False,
                "createdAt": iso(when),
            }
            for when, operation in self.log
        ]

    def document(self) -> dict[str, Any]:
        """The DID document as plc.directory serves it. The account must not be tombstoned."""
        operation = self.log[-1][1]
        return {
            "@context": [
                "https://www.w3.org/ns/did/v1",
                "https://w3id.org/security/multikey/v1",
                "https://w3id.org/security/suites/secp256k1-2019/v1",
            ],
            "id": self.did,
            "alsoKnownAs": operation["alsoKnownAs"],
            "verificationMethod": [
                {
                    "id": f"{self.did}#{name}",
                    "type": "Multikey",
                    "controller": self.did,
                    "publicKeyMultibase": key.removeprefix("did:key:"),
                }
                # The account's present key, also where no operation says so yet.
                for name, key in {**operation["verificationMethods"], "atproto": self.public_key}.items()
            ],
            "service": [
                {"id": f"#{name}", "type": service["type"], "serviceEndpoint": service["endpoint"]}
                for name, service in operation["services"].items()
            ],
        }
