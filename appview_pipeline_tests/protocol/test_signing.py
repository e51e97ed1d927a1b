"""Keys and signatures against the interoperability vectors."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.protocol import signing
from appview_pipeline.protocol.commit import decode_commit
from appview_pipeline.protocol.signing import InvalidKey

SECRET = bytes(31) + b"\x07"


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "==")


def test_signature_vectors(conformance: Path) -> None:
    vectors = json.loads((conformance / "interop" / "crypto" / "signature-fixtures.json").read_text())
    assert {vector["validSignature"] for vector in vectors} == {True, False}
    for vector in vectors:
        key = signing.parse_did_key(vector["publicKeyDid"])
        assert key.did_key() == vector["publicKeyDid"]
        assert signing.parse_verification_method(vector["didDocSuite"], vector["publicKeyMultibase"]) == key
        message, signature = unpadded(vector["messageBase64"]), unpadded(vector["signatureBase64"])
        assert signing.verify(key, message, signature) == vector["validSignature"], vector["comment"]
        assert not signing.verify(key, message + b"!", signature)
        assert not signing.verify(key, message, signature[:32] + b"\0" + signature[32:])


def test_did_key_vectors(conformance: Path) -> None:
    folder = conformance / "interop" / "crypto"
    for vector in json.loads((folder / "w3c_didkey_K256.json").read_text()):
        key = signing.public_key_of(bytes.fromhex(vector["privateKeyBytesHex"]))
        assert key.did_key() == vector["publicDidKey"]
        assert signing.parse_did_key(vector["publicDidKey"]) == key
    for vector in json.loads((folder / "w3c_didkey_P256.json").read_text()):
        key = signing.parse_did_key(vector["publicDidKey"])
        assert (key.curve, key.did_key()) == (signing.P256, vector["publicDidKey"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:plc:abc",
        "did:key:",
        "did:key:z",
        "did:key:zQ3sh",
        "did:key:z0OIl",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",  # Ed25519
        "did:key:f" + "e701" + "02" * 33,
        "did:key:z" + "1" * 300,
        signing.PublicKey(signing.K256, b"\x02" + b"\xff" * 32).did_key(),  # not on the curve
        signing.PublicKey(signing.P256, b"\x04" + bytes(32)).did_key(),
        signing.PublicKey(signing.K256, b"\x02" + bytes(40)).did_key(),
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(InvalidKey):
        signing.parse_did_key(text)


def test_unknown_verification_methods_are_refused() -> None:
    multikey = signing.public_key_of(SECRET).multikey()
    assert signing.parse_verification_method("Multikey", multikey) == signing.public_key_of(SECRET)
    with pytest.raises(InvalidKey, match="unknown type"):
        signing.parse_verification_method("Ed25519VerificationKey2020", multikey)
    with pytest.raises(InvalidKey):
        signing.parse_verification_method("EcdsaSecp256k1VerificationKey2019", multikey)


@given(st.binary(max_size=100))
def test_signatures_verify_with_low_s_only(message: bytes) -> None:
    key = signing.public_key_of(SECRET)
    signature = signing.sign(SECRET, message)
    assert len(signature) == 64
    assert signature == signing.sign(SECRET, message)
    assert signing.verify(key, message, signature)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert not signing.verify(key, message, high)
    assert not signing.verify(key, message, PrivateKey(SECRET).sign(message))


@given(st.binary(min_size=60, max_size=70))
def test_arbitrary_signatures_are_only_false(signature: bytes) -> None:
    assert not signing.verify(signing.public_key_of(SECRET), b"message", signature)
    p256 = signing.parse_did_key("did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo")
    assert not signing.verify(p256, b"message", signature)


@pytest.mark.parametrize("r", [0, 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, 2**256 - 1])
def test_extreme_signatures_are_only_false(r: int, s: int) -> None:
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert not signing.verify(signing.public_key_of(SECRET), b"message", signature)
    p256 = signing.parse_did_key("did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo")
    assert not signing.verify(p256, b"message", signature)


def test_commits_are_signed() -> None:
    key = signing.public_key_of(SECRET)
    data = b"\x01\x71\x12\x20" + bytes(32)
    block = signing.sign_commit(SECRET, did="did:plc:abc", rev="3mptbypluud2a", data=data)
    commit = decode_commit(block)
    assert commit == {
        "did": "did:plc:abc",
        "rev": "3mptbypluud2a",
        "data": data,
        "prev": None,
        "version": 3,
        "sig": commit["sig"],
    }
    assert signing.verify_commit(key, block, commit["sig"])
    altered = block.replace(b"3mptbypluud2a", b"3mptbypluud2b")
    assert not signing.verify_commit(key, altered, commit["sig"])
    assert not signing.verify_commit(key, block, bytes(64))
    assert signing.unsigned_commit(block, bytes(64)) is None


def test_signatures_with_p256_are_of_low_s_too() -> None:
    secret = ec.derive_private_key(12_345, ec.SECP256R1())
    point = secret.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    key = signing.PublicKey(signing.P256, point)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for message in (b"", b"a", b"b"):
        r, s = decode_dss_signature(secret.sign(message, ec.ECDSA(SHA256())))
        verified = [
            signing.verify(key, message, r.to_bytes(32, "big") + it.to_bytes(32, "big")) for it in (s, order - s)
        ]
        assert verified == [s <= order // 2, s > order // 2]
