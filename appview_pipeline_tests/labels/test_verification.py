"""Whose label it is: sources, signatures, keys that are in doubt, labels that are tried again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from appview_pipeline import backoff
from appview_pipeline.identity.cache import IdentityCache, KnownIdentity
from appview_pipeline.labels.verification import KeyInDoubt, LabelerKeys, verify_one
from appview_pipeline.protocol.label import InvalidLabel, Label, as_wire, read_label, sign_label
from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.settings import Settings

LABELER, OTHER = "did:plc:labelerrrrrrrrrrrrrrrrrr", "did:plc:anotherlabelerrrrrrrrrrr"
OLD, NEW = b"1" * 32, b"2" * 32
NOW = 1_800_000_000_000_000


def did_key(private: bytes) -> str:
    return public_key_of(private).did_key()


def wire(private: bytes | None, *, src: str = LABELER) -> dict[str, Any]:
    made = as_wire(sign_label(private or OLD, src=src, uri=OTHER, val="x", cts="2025-01-01T00:00:00Z"))
    return made if private is not None else {name: value for name, value in made.items() if name != "sig"}


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def verify(keys: LabelerKeys, value: dict[str, Any]) -> Label:
    return keys.verify(LABELER, read_label(value, NOW), value)


def kind_of(keys: LabelerKeys, value: dict[str, Any]) -> str:
    with pytest.raises(InvalidLabel) as error:
        verify(keys, value)
    return error.value.kind


def test_its_own_with_its_key() -> None:
    keys = LabelerKeys()
    keys.set(LABELER, did_key(OLD))
    assert verify(keys, wire(OLD)).val == "x"
    assert kind_of(keys, wire(OLD, src=OTHER)) == "label-source"
    assert kind_of(keys, wire(None)) == "label-unsigned"


def test_a_key_is_in_doubt_once_in_some_minutes() -> None:
    clock = Clock()
    keys = LabelerKeys(clock=clock)
    keys.set(LABELER, did_key(OLD))
    with pytest.raises(KeyInDoubt):
        verify(keys, wire(NEW))
    keys.resolved(LABELER, did_key(OLD))
    assert kind_of(keys, wire(NEW)) == "label-signature"
    clock.now += backoff.LABELER_KEY_SECONDS - 1
    assert kind_of(keys, wire(NEW)) == "label-signature"
    clock.now += 2
    with pytest.raises(KeyInDoubt):
        verify(keys, wire(NEW))
    keys.resolved(LABELER, did_key(NEW))
    assert verify(keys, wire(NEW)).val == "x"
    assert kind_of(keys, wire(OLD)) == "label-signature", "nothing falls back to a key of the past"


def test_without_a_key_nothing_is_taken() -> None:
    keys = LabelerKeys()
    with pytest.raises(KeyInDoubt):
        verify(keys, wire(OLD))
    keys.resolved(LABELER, None)
    assert kind_of(keys, wire(OLD)) == "label-signature"


def test_unsigned_ones_where_they_are_allowed() -> None:
    """A signature that is there has to fit all the same."""
    keys = LabelerKeys([LABELER])
    assert not keys.needs_key(LABELER) and keys.needs_key(OTHER)
    assert verify(keys, wire(None)).sig is None
    assert kind_of(keys, wire(None, src=OTHER)) == "label-source"
    keys.resolved(LABELER, did_key(OLD))
    assert kind_of(keys, wire(NEW)) == "label-signature"


# ---- tried again


@dataclass
class Identities:
    """What is known, and what the network would say."""

    known: str | None
    network: str | None
    resolved_at: float = 0.0
    forced: list[bool] = field(default_factory=list)

    def get(self, did: str, *, force: bool = False) -> KnownIdentity:
        self.forced.append(force)
        return KnownIdentity(
            did, "found", labeler_key=self.network if force else self.known, resolved_at=self.resolved_at
        )


def again(identities: Identities, value: object, **settings: Any) -> Label:
    return verify_one(Settings(**settings), cast(IdentityCache, identities), value, LABELER, now_micros=NOW)


def test_a_label_that_fits_by_now() -> None:
    assert again(identities := Identities(did_key(OLD), None), wire(OLD)).val == "x"
    assert identities.forced == [False]
    assert again(identities := Identities(did_key(OLD), did_key(NEW)), wire(NEW)).val == "x"
    assert identities.forced == [False, True]


def test_a_label_that_does_not_fit() -> None:
    """The network is asked only where the document is not from a moment ago."""
    for identities, asked in (
        (Identities(did_key(OLD), did_key(OLD)), [False, True]),
        (Identities(did_key(OLD), did_key(NEW), resolved_at=time.time()), [False]),
        (Identities(None, None), [False, True]),
    ):
        with pytest.raises(InvalidLabel) as error:
            again(identities, wire(NEW))
        assert (error.value.kind, identities.forced) == ("label-signature", asked)
    with pytest.raises(InvalidLabel) as error:
        again(Identities(did_key(OLD), None), wire(None))
    assert error.value.kind == "label-unsigned"
    assert again(Identities(None, None), wire(None), unsigned_labelers=(LABELER,)).sig is None
    with pytest.raises(InvalidLabel) as error:
        again(Identities(None, None), [1])
    assert error.value.kind == "label-syntax"
