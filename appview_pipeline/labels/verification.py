"""Whether a label is its labeler's: its source, and its signature (https://atproto.com/specs/label).

A label is signed with the key `#atproto_label` of the labeler's DID document, and with no other. Where a signature does
not fit, the key may have changed a moment ago: the document is resolved once more before the label is rejected. That
takes seconds, so it is not done here: `LabelerKeys` says that a key is in doubt (`KeyInDoubt`), and whoever reads the
stream comes back with the frame once the document is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from appview_pipeline import backoff
from appview_pipeline.identity.cache import IdentityCache
from appview_pipeline.protocol.label import InvalidLabel, Label, read_label, verify_label
from appview_pipeline.protocol.signing import InvalidKey, VerifyingKey, parse_did_key
from appview_pipeline.settings import Settings

SOURCE = "label-source"
SIGNATURE = "label-signature"
UNSIGNED = "label-unsigned"
"""Kinds of dead letters: the label is another's, its signature does not fit, it has none."""


class KeyInDoubt(Exception):
    """A signature does not fit the key that is known, and the labeler's document may have a newer one."""


class LabelerKeys:
    """The keys of the labelers that are read. For one thread. `unsigned`: labelers whose labels are taken without a
    signature (`APPVIEW_UNSIGNED_LABELERS`)."""

    def __init__(self, unsigned: Collection[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._unsigned = frozenset(unsigned)
        self._clock = clock
        self._keys: dict[str, tuple[str, VerifyingKey | None]] = {}
        self._resolved: dict[str, float] = {}

    def needs_key(self, did: str) -> bool:
        """Whether a labeler without a key can't be read."""
        return did not in self._unsigned

    def set(self, did: str, key: str | None) -> None:
        """Uses `key` (`did:key:...`, None: there is none) for a labeler from now on."""
        if key is None:
            self._keys.pop(did, None)
        elif did not in self._keys or self._keys[did][0] != key:
            self._keys[did] = key, _verifying_key(key)

    def resolved(self, did: str, key: str | None) -> None:
        """The document of a labeler whose key was in doubt has been resolved: what does not fit now is rejected."""
        self._resolved[did] = self._clock()
        self.set(did, key)

    def forget(self, did: str) -> None:
        """A labeler is not read any more."""
        self._keys.pop(did, None)
        self._resolved.pop(did, None)

    def verify(self, did: str, label: Label, value: Mapping[str, Any]) -> Label:
        """The label of a labeler's stream, once it is known to be the labeler's. `value`: the label as decoded.

        Raises InvalidLabel where it is not, and `KeyInDoubt` where that can be said only after the labeler's document
        has been resolved: at most once in `LABELER_KEY_SECONDS`.
        """
        check_source(label, did)
        if label.sig is None and did in self._unsigned:
            return label
        check_signature(label)
        known = self._keys.get(did)
        key = known[1] if known is not None else None
        verified = verify_label(key, label, value) if key is not None else None
        if verified is not None:
            return verified
        if self._resolved.get(did, float("-inf")) + backoff.LABELER_KEY_SECONDS <= self._clock():
            raise KeyInDoubt(did)
        raise _not_signed(key)


def check_source(label: Label, labeler: str) -> None:
    """Raises InvalidLabel (`label-source`) where a label is not from the labeler that sends it."""
    if label.src != labeler:
        raise InvalidLabel(SOURCE, f"its source is {label.src}, and {labeler} sends it")


def check_signature(label: Label) -> None:
    """Raises InvalidLabel (`label-unsigned`) where a label has no signature."""
    if label.sig is None:
        raise InvalidLabel(UNSIGNED, "it has no signature (APPVIEW_UNSIGNED_LABELERS names labelers that need none)")


def verify_one(
    settings: Settings, identities: IdentityCache, value: object, labeler: str, *, now_micros: int | None = None
) -> Label:
    """Reads and verifies one label, as decoded, of a labeler; for labels that are tried again.

    Blocks while the labeler's document is resolved: where it is not known, and where the signature does not fit and the
    document is older than `LABELER_KEY_SECONDS`. Raises InvalidLabel, and what `IdentityCache.get` raises.
    """
    label = read_label(value, time.time_ns() // 1_000 if now_micros is None else now_micros)
    assert isinstance(value, dict), "read_label takes maps only"
    check_source(label, labeler)
    if label.sig is None and labeler in settings.unsigned_labelers:
        return label
    check_signature(label)
    identity = identities.get(labeler)
    key = None if identity.labeler_key is None else _verifying_key(identity.labeler_key)
    verified = None if key is None else verify_label(key, label, value)
    age = time.time() - (identity.resolved_at or 0.0)
    if verified is None and age > backoff.LABELER_KEY_SECONDS:
        newer = identities.get(labeler, force=True)
        if newer.labeler_key is not None and newer.labeler_key != identity.labeler_key:
            key = _verifying_key(newer.labeler_key)
            verified = None if key is None else verify_label(key, label, value)
    if verified is None:
        raise _not_signed(key)
    return verified


def _verifying_key(text: str) -> VerifyingKey | None:
    """A key ready for use; None for one that can't be used."""
    try:
        return VerifyingKey(parse_did_key(text))
    except InvalidKey:
        return None


def _not_signed(key: VerifyingKey | None) -> InvalidLabel:
    if key is None:
        return InvalidLabel(SIGNATURE, "the labeler's DID document has no key for labels (#atproto_label)")
    return InvalidLabel(SIGNATURE, "it is not signed with the labeler's key (#atproto_label)")
