"""String formats against the interoperability vectors, and what the vectors leave open."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.protocol import syntax

FORMATS: dict[str, Callable[[str], bool]] = {
    "atidentifier": syntax.is_at_identifier,
    "aturi": syntax.is_at_uri,
    "cid": syntax.is_cid,
    "datetime": syntax.is_datetime,
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "language": syntax.is_language,
    "nsid": syntax.is_nsid,
    "recordkey": syntax.is_record_key,
    "tid": syntax.is_tid,
    "uri": syntax.is_uri,
}


def vectors(folder: Path, name: str) -> list[str]:
    """The lines of a vector file; empty lines and comments don't count, white space does."""
    path = folder / name
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["syntax", "extra/atproto-monorepo-syntax"])
def test_interoperability_vectors(conformance: Path, name: str, source: str) -> None:
    folder = conformance / "interop" / source
    accepts = FORMATS[name]
    valid = vectors(folder, f"{name}_syntax_valid.txt")
    # "parse invalid" is right on the surface and wrong in meaning.
    invalid = vectors(folder, f"{name}_syntax_invalid.txt") + vectors(folder, f"{name}_parse_invalid.txt")
    assert [text for text in valid if not accepts(text)] == []
    assert [text for text in invalid if accepts(text)] == []
    if source == "syntax":
        assert len(valid) >= 4
        assert len(invalid) >= 5


@pytest.mark.parametrize(
    "accepts", [syntax.is_did, syntax.is_handle, syntax.is_nsid, syntax.is_tid, syntax.is_record_key, syntax.is_at_uri]
)
def test_no_format_accepts_a_line_feed_at_the_end(accepts: Callable[[str], bool]) -> None:
    for good in ("did:plc:abc", "alice.test", "com.example.thing", "3jzfcijpj2z2a", "self", "at://alice.test"):
        assert not accepts(good + "\n")
        assert not accepts(good + "\0")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("at://did:plc:asdf123", ("did:plc:asdf123", None, None)),
        ("at://alice.test/app.bsky.feed.post", ("alice.test", "app.bsky.feed.post", None)),
        ("at://did:web:a.b%3A80/app.bsky.feed.post/3k..", ("did:web:a.b%3A80", "app.bsky.feed.post", "3k..")),
    ],
)
def test_at_uri_parts(uri: str, parts: tuple[str, str | None, str | None]) -> None:
    assert syntax.parse_at_uri(uri) == parts


def test_parts_of_an_at_uri_keep_their_own_limits() -> None:
    name = ".".join(["a" * 60] * 5)
    assert not syntax.is_nsid(f"{name}.{'b' * 60}")
    assert not syntax.is_at_uri(f"at://did:plc:abc/{name}.{'b' * 60}")
    assert not syntax.is_at_uri(f"at://did:plc:abc/a.b.c/{'x' * 513}")


# As Node.js 20 gives them for the reference's way of asking it.
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2023-01-01T00:00:00.123Z", "2023-01-01T00:00:00.123Z"),
        ("2023-01-01T00:00:00.1239Z", "2023-01-01T00:00:00.123Z"),
        ("2023-01-01T00:00:00Z", "2023-01-01T00:00:00.000Z"),
        ("2023-01-01T10:20Z", "2023-01-01T10:20:00.000Z"),
        ("2023-01-01T00:00:00+01:45", "2022-12-31T22:15:00.000Z"),
        ("2023-01-01T00:00:00+0100", "2022-12-31T23:00:00.000Z"),
        ("2023-01-01T00:00:00.123456789-00:00", "2023-01-01T00:00:00.123Z"),
        ("2023-01-01t00:00:00z", "2023-01-01T00:00:00.000Z"),
        ("2023-01-01 00:00:00.5Z", "2023-01-01T00:00:00.500Z"),
        ("2023-01-01T00:00:00", "2023-01-01T00:00:00.000Z"),
        ("2023-01-01", "2023-01-01T00:00:00.000Z"),
        ("2023-02-30T00:00:00.000Z", "2023-03-02T00:00:00.000Z"),
        ("2023-02-31T00:00:00.5+23:59", "2023-03-02T00:01:00.500Z"),
        ("2024-02-29T12:00:00.000Z", "2024-02-29T12:00:00.000Z"),
        ("2023-01-01T24:00:00Z", "2023-01-02T00:00:00.000Z"),
        ("0000-01-01T00:00:00.000Z", "0000-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59.999-01:00", syntax.EPOCH),
        ("0000-01-01T00:00:00+01:00", syntax.EPOCH),
        ("2023-01-01T24:00:00.001Z", syntax.EPOCH),
        ("2023-01-01T00:00:60Z", syntax.EPOCH),
        ("2023-01-01T00:00:00.Z", syntax.EPOCH),
        ("2023-01-01T00:00:00+24:00", syntax.EPOCH),
        ("2023-13-01T00:00:00Z", syntax.EPOCH),
        ("yesterday", syntax.EPOCH),
        ("", syntax.EPOCH),
        ("２０23-01-01T00:00:00.000Z", syntax.EPOCH),
    ],
)
def test_datetimes_are_normalized_as_the_reference_does(text: str, normal: str) -> None:
    assert syntax.normalize_datetime(text) == normal


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
    st.integers(-23 * 60, 23 * 60).filter(bool),
    st.integers(0, 9),
)
def test_normalizing_agrees_with_the_standard_library(moment: datetime, offset: int, digits: int) -> None:
    local = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    fraction = f".{moment.microsecond:06}000"[: digits + 1] if digits else ""
    sign = "+" if offset > 0 else "-"
    text = f"{moment.year:04}{local:-%m-%dT%H:%M:%S}{fraction}{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    kept = int(fraction[1:4].ljust(3, "0") if fraction else 0)
    utc = local.astimezone(timezone.utc)
    assert syntax.is_datetime(text)
    assert syntax.normalize_datetime(text) == f"{utc.year:04}{utc:-%m-%dT%H:%M:%S}.{kept:03}Z"


@given(st.text(max_size=40))
def test_normalizing_gives_a_datetime_whatever_comes(text: str) -> None:
    normal = syntax.normalize_datetime(text)
    assert syntax.is_datetime(normal)
    assert syntax.normalize_datetime(normal) == normal


def test_datetime_to_micros() -> None:
    assert syntax.datetime_to_micros("1970-01-01T00:00:01.0000019Z") == 1_000_001
    assert syntax.datetime_to_micros("1970-01-01T01:00:00.5+01:00") == 500_000
    assert syntax.datetime_to_micros("soon") is None


def test_tids() -> None:
    assert syntax.tid_to_micros("3jzfcijpj2z2a") == 1_688_137_381_887_007
    assert syntax.tid_from_micros(1_688_137_381_887_007, 6) == "3jzfcijpj2z2a"
    with pytest.raises(ValueError, match="not a TID"):
        syntax.tid_to_micros("zzzzzzzzzzzzz")
    with pytest.raises(ValueError, match="53 bits"):
        syntax.tid_from_micros(1 << 53)


@given(st.integers(0, 2**53 - 1), st.integers(0, 1023), st.integers(0, 2**53 - 1))
def test_tids_keep_their_moment_and_sort_by_it(micros: int, clock_id: int, other: int) -> None:
    tid = syntax.tid_from_micros(micros, clock_id)
    assert syntax.is_tid(tid)
    assert syntax.tid_to_micros(tid) == micros
    if micros != other:
        assert (tid < syntax.tid_from_micros(other)) == (micros < other)
