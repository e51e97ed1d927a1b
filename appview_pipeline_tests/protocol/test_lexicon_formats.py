"""The formats of strings that lexicons name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.lexicon_formats import FORMATS, USUAL
from appview_pipeline_tests.support.lexicons import CONFORMANCE, NOT_RAW, POST_URI, needs_conformance

# Where the reference's reading of a format deviates from the vectors, and we follow it (see protocol.lexicon_formats).
DEVIATIONS = {
    ("cid", "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"): True,
    ("cid", "zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7"): False,
    ("cid", "zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz"): False,
    ("cid", "z7x3CtScH765HvShXT"): False,
    ("cid", "mBcDxtdWx0aWhhc2g+"): False,
    ("cid", "7134036155352661643226414134664076"): False,
    ("cid", "f017012202c5f688262e0ece8569aa6f94d60aad55ca8d9d83734e4a7430d0cff6588ec2b"): False,
    ("uri", "content-type:text/plan"): False,
    ("uri", "microsoft.windows.camera:thing"): False,
}


@needs_conformance
def test_formats_agree_with_the_syntax_vectors() -> None:
    names = {"atidentifier": "at-identifier", "aturi": "at-uri", "recordkey": "record-key"}
    disagreements = {}
    count = 0
    for path in sorted((CONFORMANCE / "interop" / "syntax").glob("*.txt")):
        name, _, kind = path.stem.partition("_")
        format_ = names.get(name, name)
        for line in path.read_text().split("\n"):
            if line and not line.startswith("#"):
                count += 1
                verdict = FORMATS[format_](line)
                if verdict != (not kind.endswith("invalid")):
                    disagreements[format_, line] = verdict
    assert count > 500
    # One vector is a URI that is invalid for its length alone, which the field's maxLength is there for.
    too_long = [key for key in disagreements if key[0] == "uri" and len(key[1]) > 8192]
    assert len(too_long) == 1
    assert {key: verdict for key, verdict in disagreements.items() if key not in too_long} == DEVIATIONS


@pytest.mark.parametrize("format_", sorted(USUAL))
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_quick_pattern_of_a_format_is_narrower_than_the_format(format_: str, data: st.DataObject) -> None:
    pattern: re.Pattern[str] = USUAL[format_].__self__  # type: ignore[attr-defined]
    text = data.draw(st.from_regex(pattern, fullmatch=True))
    if USUAL[format_](text) is not None:
        assert FORMATS[format_](text)


def test_cids_are_canonical() -> None:
    good = cid.to_text(NOT_RAW)
    v0 = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"
    assert all(map(FORMATS["cid"], [good, v0, "bafkqaaa"]))
    for text in (
        good[:-1],
        good + "a",
        good[:-1] + "b",
        good.upper(),
        v0[:-1],
        v0[:-1] + "0",
        "bafkqaca",
        "b",
        "baaaa",
    ):
        assert not FORMATS["cid"](text), text


def test_uris_as_javascript_reads_them() -> None:
    for text in ("https://a", "a:b", "1_x:y", "a:b\x1c", "mailto:a@b.example"):
        assert FORMATS["uri"](text), text
    for text in ("http:///x", "http:/x", "a-b:c", "a:", "a://", "a:b c", "a:b\ufeff", "a:b\u3000", "a:b\n", ":b"):
        assert not FORMATS["uri"](text), text


def test_fragments_of_at_uris() -> None:
    assert FORMATS["at-uri"](f"{POST_URI}#/facets/0")
    assert FORMATS["at-uri"](f"{POST_URI}#/%E6%97%A5")
    for text in (f"{POST_URI}#", f"{POST_URI}#facets", f"{POST_URI}#/%E6", f"{POST_URI}#/%zz", f"{POST_URI}#/a#/b"):
        assert not FORMATS["at-uri"](text)
