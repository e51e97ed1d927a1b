"""Keys and signatures of commits, labels (`label.py`) and PLC operations.

Two curves, secp256k1 ("k256", ES256K) and NIST P-256 ("p256", ES256); SHA-256; compact signatures of 64 bytes (r, s),
of which only the low-s one is valid (https://atproto.com/specs/cryptography). Verifying with a key that is ready
(`VerifyingKey`) takes about 40 us (k256) or 65 us (p256).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from coincurve import PrivateKey as K256PrivateKey
from coincurve import PublicKey as K256PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from libipld import decode_multibase, encode_dag_cbor, encode_multibase

K256 = "k256"
P256 = "p256"

# Multicodec prefixes of the compressed public keys.
_MULTICODEC = {K256: b"\xe7\x01", P256: b"\x80\x24"}
_LEGACY_SUITE = {"EcdsaSecp256k1VerificationKey2019": K256, "EcdsaSecp256r1VerificationKey2019": P256}
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA = ec.ECDSA(SHA256())


class InvalidKey(ValueError):
    """Text or bytes that are no public key of one of the two curves; the message is the reason in words."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: `curve` ("k256" or "p256") and the compressed point (33 bytes)."""

    curve: str
    point: bytes

    def multikey(self) -> str:
        """The key as the Multikey text of DID documents ("z...")."""
        text: str = encode_multibase("z", _MULTICODEC[self.curve] + self.point)
        return text

    def did_key(self) -> str:
        """The key as a `did:key:z...`."""
        return "did:key:" + self.multikey()


def parse_multikey(text: str) -> PublicKey:
    """The key of a Multikey ("z" and base58: multicodec prefix and compressed point). Raises InvalidKey."""
    raw = _base58(text)
    for curve, prefix in _MULTICODEC.items():
        if raw.startswith(prefix):
            return _checked(curve, raw[len(prefix) :], compressed=True)
    raise InvalidKey("multikey of another kind than secp256k1 or P-256")


def parse_did_key(text: str) -> PublicKey:
    """The key of a `did:key`. Raises InvalidKey."""
    if not text.startswith("did:key:"):
        raise InvalidKey("not a did:key")
    return parse_multikey(text[8:])


def parse_verification_method(kind: str, multibase: str) -> PublicKey:
    """The key of an entry of a DID document's `verificationMethod`: its `type` and `publicKeyMultibase`.

    `Multikey` is today's kind; the two kinds of 2019 have the point, compressed or not, without a prefix. Raises
    InvalidKey.
    """
    if kind == "Multikey":
        return parse_multikey(multibase)
    curve = _LEGACY_SUITE.get(kind)
    if curve is None:
        raise InvalidKey(f"verification method of the unknown type {kind[:100]!r}")
    return _checked(curve, _base58(multibase), compressed=False)


def _base58(text: str) -> bytes:
    if not text.startswith("z") or len(text) > 200:
        raise InvalidKey("key is not in base58 multibase")
    try:
        raw: bytes = decode_multibase(text)[1]
    except ValueError as error:
        raise InvalidKey(f"key is not in base58 multibase: {error}") from None
    return raw


def _checked(curve: str, point: bytes, *, compressed: bool) -> PublicKey:
    """A key whose point is on its curve."""
    if compressed and len(point) != 33:
        raise InvalidKey("public key is not a compressed point of 33 bytes")
    try:
        if curve == K256:
            return PublicKey(curve, K256PublicKey(point).format())
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        return PublicKey(curve, key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
    except ValueError:
        raise InvalidKey("public key is not a point of its curve") from None


class VerifyingKey:
    """A public key ready for use: its point is decompressed, which takes 5 us (k256) or 20 us (p256), once."""

    __slots__ = ("_k256", "_p256")

    def __init__(self, key: PublicKey) -> None:
        self._k256 = self._p256 = None
        if key.curve == K256:
            self._k256 = K256PublicKey(key.point)
        else:
            self._p256 = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.point)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether a compact, low-s signature of a message (not yet hashed) is by the key."""
        if len(signature) != 64:
            return False
        if self._k256 is not None:
            try:
                # libsecp256k1 itself takes only low s for valid.
                return self._k256.verify(cdata_to_der(deserialize_compact(signature)), message)
            except ValueError:
                return False
        assert self._p256 is not None
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not 0 < s <= _P256_ORDER // 2 or not 0 < r < _P256_ORDER:
            return False
        try:
            self._p256.verify(encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=1_000)
def _ready(key: PublicKey) -> VerifyingKey:
    return VerifyingKey(key)


def verify(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether a compact, low-s signature of a message (not yet hashed) is by a key."""
    return _ready(key).verify(message, signature)


def public_key_of(private_key: bytes) -> PublicKey:
    """The public key of a secp256k1 private key (32 bytes)."""
    return PublicKey(K256, K256PrivateKey(private_key).public_key.format())


def sign(private_key: bytes, message: bytes) -> bytes:
    """The compact, low-s, deterministic (RFC 6979) signature of a message with a secp256k1 private key (32 bytes)."""
    return _ready_to_sign(private_key).sign_recoverable(sha256(message).digest(), hasher=None)[:64]


@lru_cache(maxsize=100)
def _ready_to_sign(private_key: bytes) -> K256PrivateKey:
    # Most of the time of a signature would be that of the key's own point.
    return K256PrivateKey(private_key)


# --- commits ---------------------------------------------------------------------------------------------------------


def unsigned_commit(block: bytes, sig: bytes) -> bytes | None:
    """The bytes that a commit's signature is over: the commit object without its `sig`, None if that isn't found.

    The entry is cut out of the block, which is the same as encoding the rest again, as keys are in order and lengths
    canonical in any block that a signature can be valid for.
    """
    entry = b"\x63sig\x58\x40" + sig
    at = block.find(entry)
    if at < 1 or not 0xA2 <= block[0] <= 0xB7:
        return None
    return bytes((block[0] - 1,)) + block[1:at] + block[at + len(entry) :]


def verify_commit(key: PublicKey | VerifyingKey, block: bytes, sig: bytes) -> bool:
    """Whether a commit object (its block, and the `sig` in it) is signed by a key. Commits of one account after another
    should come with a `VerifyingKey`; of keys alone only the last 1,000 are kept ready."""
    unsigned = unsigned_commit(block, sig)
    if unsigned is None:
        return False
    return (_ready(key) if isinstance(key, PublicKey) else key).verify(unsigned, sig)


def sign_commit(private_key: bytes, *, did: str, rev: str, data: bytes) -> bytes:
    """The block of a signed commit object of version 3; `data` is the CID of the tree's root."""
    unsigned = {"did": did, "rev": rev, "data": data, "prev": None, "version": 3}
    encoded: bytes = encode_dag_cbor({**unsigned, "sig": sign(private_key, encode_dag_cbor(unsigned))})
    return encoded
