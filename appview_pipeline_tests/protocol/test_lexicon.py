"""Lexicon validation: every type of the language, and records that the reference accepts or refuses."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.protocol import cid, graphemes
from appview_pipeline.protocol.lexicon_source import MAX_DEPTH
from appview_pipeline_tests.support.lexicons import (
    DID,
    LEXICONS,
    NOT_RAW,
    NOW,
    POST_URI,
    RAW,
    STRONG_REF,
    image,
    images,
    post,
    reason,
    validator_of,
)

# --- what the reference was seen to do (appview-facts 1.8, rows 2 to 5) ----------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        post(),
        post(createdAt="2024-02-29T23:59:59+09:00"),
        post(createdAt="2024-01-01T00:00:00.123456Z"),
        post(createdAt="0000-01-01T00:00:00Z"),
        post(createdAt="9999-12-31T23:59:59Z"),
        post(text="", langs=[], tags=[]),
        post(text="👨‍👩‍👧‍👦" * 100),
        post(text="e\u0301" * 300),
        post(text="क्ष" * 300),
        post(text="日" * 300),
        post(text="\r\n" * 300),
        post(langs=["en", "pt-BR", "zh-Hant-TW"]),
        post(embed=images(*[image()] * 4)),
        post(embed=images(image(size=2_000_000))),
        post(surprise={"nested": [1, "two", None]}, another=1.5),
        post(embed={"$type": "com.example.embed", "images": 5}),
        # Types have one name; under another they are unknown, and unknown ones pass in an open union.
        post(embed={"$type": "app.bsky.embed.images#main"}),
        post(reply={"$type": "app.bsky.feed.post#replyRef", "root": STRONG_REF, "parent": STRONG_REF}),
        post(labels={"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": "x" * 128}]}),
        post(embed={"$type": "app.bsky.embed.record", "record": STRONG_REF}),
        {"$type": "app.bsky.feed.like", "subject": STRONG_REF, "createdAt": NOW, "via": STRONG_REF},
        # A handle is an authority too (row 17).
        {
            "$type": "app.bsky.feed.like",
            "subject": {**STRONG_REF, "uri": "at://alice.test/app.bsky.feed.post/x"},
            "createdAt": NOW,
        },
        {"$type": "app.bsky.graph.follow", "subject": DID, "createdAt": NOW},
        {"$type": "app.bsky.actor.profile"},
        {"$type": "app.bsky.feed.threadgate", "post": POST_URI, "allow": [], "createdAt": NOW},
        {"$type": "app.bsky.actor.contentVisibilityDeclaration", "hideFromAlgorithmicRecommendations": True},
    ],
)
def test_accepted(record: dict[str, Any]) -> None:
    assert reason(record) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (post(embed=images({"alt": "", "image": {"cid": cid.to_text(RAW), "mimeType": "image/jpeg"}})),
         "embed.images[0].image is not a blob"),
        *[
            (post(createdAt=value), "createdAt is not of the format datetime")
            for value in (
                "2024-01-01T00:00:00", "2024-01-01T00:00:00-00:00", "2024-01-01t00:00:00Z", "2024-01-01T00:00:00z",
                "2024-01-01", "2024-12-31T23:59:60Z", "", "2024-01-01T00:00:00Z\n",
                f"2024-01-01T00:00:00.{'0' * 45}Z",
            )
        ],
        (post(text="a" * 301), "text is longer than 300 graphemes"),
        (post(text="日" * 301), "text is longer than 300 graphemes"),
        (post(text="e\u0301" * 301), "text is longer than 300 graphemes"),
        (post(text="👨‍👩‍👧‍👦" * 121), "text is longer than 3000 bytes"),
        (post(langs=["en"] * 4), "langs has more than 3 items"),
        (post(langs=["en", "not a language"]), "langs[1] is not of the format language"),
        (post(tags=["a"] * 9), "tags has more than 8 items"),
        (post(tags=["x", "a" * 65]), "tags[1] is longer than 64 graphemes"),
        (post(embed=images(*[image()] * 5)), "embed.images has more than 4 items"),
        (post(embed=images(image(), image(size=2_000_001))), "embed.images[1].image.size is over 2000000 bytes"),
        (post(embed=images(image(size=-1))), "embed.images[0].image.size is not a size"),
        (post(embed=images(image(size=True))), "embed.images[0].image.size is not a size"),
        (post(embed=images(image(mimeType="video/mp4"))), "embed.images[0].image.mimeType is not image/*"),
        (post(embed=images(image(ref=NOT_RAW))), "embed.images[0].image.ref is not a CID link to raw bytes"),
        (post(embed=images(image(ref=bytes(RAW)))), "embed.images[0].image.ref is not a CID link to raw bytes"),
        (post(embed=images(image(extra=1))), "embed.images[0].image is a blob with fields missing or too many"),
        (post(embed={"images": [image()]}), "embed.$type is missing or not a string"),
        (post(embed="x"), "embed is not an object"),
        (post(embed=None), "embed is not an object"),
        (post(reply={"root": STRONG_REF}), "reply.parent is missing"),
        (post(reply={"root": STRONG_REF, "parent": {**STRONG_REF, "uri": "https://example.com"}}),
         "reply.parent.uri is not of the format at-uri"),
        (post(reply={"root": {**STRONG_REF, "uri": f"at://{DID}/app.bsky.feed.post/a b"}, "parent": STRONG_REF}),
         "reply.root.uri is not of the format at-uri"),
        (post(reply={"$type": "com.example.other", "root": STRONG_REF, "parent": STRONG_REF}),
         "reply.$type is not app.bsky.feed.post#replyRef"),
        (post(text=None), "text is not a string"),
        ({"$type": "app.bsky.feed.post", "createdAt": NOW}, "text is missing"),
        ({"$type": "app.bsky.graph.follow", "subject": "alice.test", "createdAt": NOW},
         "subject is not of the format did"),
        ({"$type": "app.bsky.actor.contentVisibilityDeclaration", "hideFromAlgorithmicRecommendations": 1},
         "hideFromAlgorithmicRecommendations is not true or false"),
        ({"$type": "app.bsky.graph.list", "name": "", "purpose": "x", "createdAt": NOW},
         "name is shorter than 1 bytes"),
    ],
)  # fmt: skip
def test_rejected(record: dict[str, Any], why: str) -> None:
    assert reason(record) == why


def test_the_type_of_the_record_must_be_its_collection() -> None:
    validate = LEXICONS.record_validator("app.bsky.feed.like")
    like = {"$type": "app.bsky.feed.like", "subject": STRONG_REF, "createdAt": NOW}
    assert validate(like) is None
    others: list[Any] = ["app.bsky.feed.repost", "app.bsky.feed.like#main", "", None, 5, ["app.bsky.feed.like"], {}]
    for other in others:
        assert validate({**like, "$type": other}) == "$type is not app.bsky.feed.like"
    del like["$type"]
    assert validate(like) == "$type is not app.bsky.feed.like"
    assert validate([]) == "the record is not an object"


# --- the language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer", "enum": [0, 1]}, [0, 1], [True, False, "1", 2]),
        ({"type": "integer", "const": 1}, [1], [True, 0]),
        ({"type": "integer", "const": 1, "enum": [2]}, [], [1, 2]),
        ({"type": "boolean", "const": True}, [True], [1, False]),
        ({"type": "integer"}, [0, -(2**53) + 1, 2**53 - 1], [2**53, -(2**53), True, 1.0, "1", None]),
        ({"type": "integer", "minimum": 0, "maximum": 5}, [0, 5], [-1, 6]),
        ({"type": "integer", "minimum": 0}, [2**53 - 1], [2**53]),
        ({"type": "string", "enum": ["a", "b"]}, ["a"], ["c", [], {}, None]),
        ({"type": "string", "knownValues": ["a"]}, ["a", "z"], [1]),
        ({"type": "string", "minLength": 4}, ["日本", "abcd"], ["日", "abc"]),
        ({"type": "string", "maxLength": 4}, ["", "😀", "abcd"], ["日本", "abcde"]),
        ({"type": "string", "minGraphemes": 2}, ["e\u0301e\u0301", "ab"], ["e\u0301", "\r\n", "a"]),
        ({"type": "string", "maxGraphemes": 1}, ["🏳️‍🌈", "\r\n", ""], ["ab", "🏳️‍🌈a"]),
        ({"type": "bytes", "minLength": 1, "maxLength": 2}, [b"a", b"ab"], [b"", b"abc", "a", RAW, []]),
        ({"type": "cid-link"}, [RAW, NOT_RAW], [bytes(RAW), cid.to_text(RAW), None]),
        ({"type": "blob", "accept": ["*/*"]}, [image(mimeType="x/y")["image"]], [image(mimeType="xy")["image"], {}]),
        ({"type": "blob", "accept": []}, [], [image()["image"]]),
        ({"type": "blob", "accept": ["image/png", "text/*"]},
         [image(mimeType="image/png")["image"], image(mimeType="text/x")["image"]],
         [image()["image"], image(mimeType="image/png;x")["image"], image(mimeType="textual/x")["image"]]),
        ({"type": "array", "items": {"type": "integer"}, "minLength": 1, "maxLength": 2},
         [[1], [1, 2]], [[], [1, 2, 3], ["1"], {}, "1"]),
        ({"type": "unknown"}, [{}, {"a": [1, {"b": RAW}], "$type": "blob"}],
         ["x", 1, None, [], b"", RAW, {"a": 1.5}, {"a": [{"b": 2**53}]}, {"a": object()}]),
        ({"type": "ref", "ref": "#token"}, ["com.example.thing#token"], ["#token", "token", {}, None]),
        ({"type": "ref", "ref": "#short"}, ["abc"], ["abcd", 1]),
        ({"type": "ref", "ref": "#list"}, [[{}], []], [[1], {}]),
        ({"type": "ref", "ref": "#point"}, [{}, {"x": 1}, {"$type": "com.example.thing#point"}],
         [{"$type": "other"}, {"$type": None}, {"x": None}, []]),
        ({"type": "object", "nullable": ["n"], "required": ["n"], "properties": {"n": {"type": "integer"}}},
         [{"n": None}, {"n": 1}], [{}, {"n": "1"}, None]),
        ({"type": "union", "refs": ["#point"]},
         [{"$type": "com.example.thing#point", "x": 1}, {"$type": "a.b.c", "x": "1"}, {"$type": ""}],
         [{"$type": "com.example.thing#point", "x": "1"}, {}, {"$type": 1}, {"$type": []}, "com.example.thing#token"]),
        ({"type": "union", "refs": ["#point", "#token"], "closed": True},
         [{"$type": "com.example.thing#point"}],
         [{"$type": "a.b.c"}, {"$type": "#point"}, {"$type": "com.example.thing#token"}, {}]),
        ({"type": "union", "refs": [], "closed": True}, [], [{"$type": "a.b.c"}, None]),
        # A record inside another is one of its own: the $type is required.
        ({"type": "ref", "ref": "com.example.thing"}, [{"$type": "com.example.thing"}], [{}]),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
def test_types(schema: dict[str, Any], valid: list[Any], invalid: list[Any]) -> None:
    validate = validator_of(
        {"field": schema},
        token={"type": "token"},
        short={"type": "string", "maxLength": 3},
        list={"type": "array", "items": {"type": "ref", "ref": "#point"}},
        point={"type": "object", "properties": {"x": {"type": "integer"}}},
    )
    for value in valid:
        assert validate({"$type": "com.example.thing", "field": value}) is None, value
    for value in invalid:
        found = validate({"$type": "com.example.thing", "field": value})
        assert found is not None and re.match(r"field[ .\[]", found), (value, found)


CLUSTERS = ["a", "日", "e\u0301", "👨‍👩‍👧‍👦", "🇩🇪", "각", "क्ष", "🏳️‍🌈", "\r\n", "👍🏽", "ก็", "Z͑ͫ̓ͪ"]


@given(st.lists(st.sampled_from(CLUSTERS), max_size=40), st.integers(0, 41))
@settings(deadline=None)
def test_graphemes_are_counted_as_people_do(clusters: list[str], limit: int) -> None:
    # A letter between two clusters keeps flags and the like from growing together.
    text = "-".join(clusters)
    count = max(2 * len(clusters) - 1, 0)
    at_most = validator_of({"field": {"type": "string", "maxGraphemes": limit}})
    at_least = validator_of({"field": {"type": "string", "minGraphemes": limit}})
    record = {"$type": "com.example.thing", "field": text}
    assert (at_most(record) is None) == (count <= limit)
    assert (at_least(record) is None) == (count >= limit)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        # The counts are ICU 78's (Unicode 17), the engine behind the reference's.
        ("", 0),
        ("\r\n\r\r\n\n", 4),
        ("\u200d", 1),
        ("a\u200d\u0308b", 2),
        ("👨‍👩‍👧‍👦👩🏽‍🚀❤️‍🔥", 3),
        ("🇩🇪🇫🇷🇯", 3),
        ("각한글ᄒ", 4),
        ("क्षि", 1),
        ("क्‍त", 1),
        ("कि्क", 2),
        ("\u094d\u0915", 2),
        ("க்ஷ", 2),
        ("\u0600\u0661", 1),
        ("\u0600", 1),
        ("\u0600\n", 2),
        ("ขำ", 1),
    ],
)
def test_grapheme_clusters(text: str, count: int) -> None:
    assert graphemes.count(text, 1000) == count
    assert graphemes.count(text, 1) == min(count, 1)


def test_graphemes_are_counted_in_linear_time() -> None:
    text = "🇩🇪" * 100_000
    started = time.perf_counter()
    assert graphemes.count(text, 100_001) == 100_000
    assert time.perf_counter() - started < 5


def test_definitions_that_refer_to_themselves_are_followed_to_a_bounded_depth() -> None:
    validate = validator_of(
        {"tree": {"type": "ref", "ref": "#node"}},
        node={
            "type": "object",
            "properties": {
                "child": {"type": "ref", "ref": "#node"},
                "children": {"type": "ref", "ref": "#nodes"},
                "any": {"type": "union", "refs": ["#node"]},
                "size": {"type": "integer"},
            },
        },
        nodes={"type": "array", "items": {"type": "ref", "ref": "#node"}},
    )

    def nested(wrap: Any, depth: int, inmost: dict[str, Any]) -> dict[str, Any]:
        for _ in range(depth):
            inmost = wrap(inmost)
        return {"$type": "com.example.thing", "tree": inmost}

    wraps = [
        lambda node: {"child": node},
        lambda node: {"children": [node]},
        lambda node: {"any": {**node, "$type": "com.example.thing#node"}},
    ]
    for wrap in wraps:
        assert validate(nested(wrap, 20, {"size": 1})) is None
        found = validate(nested(wrap, 20, {"size": "big"}))
        assert found is not None and found.endswith(".size is not an integer")
        found = validate(nested(wrap, 3 * MAX_DEPTH, {}))
        assert found is not None and found.endswith("is nested too deeply")


def test_unknown_values_of_any_depth() -> None:
    validate = validator_of({"field": {"type": "unknown"}})
    value: Any = 1.5
    for _ in range(100_000):
        value = [value]
    assert validate({"$type": "com.example.thing", "field": {"a": value}}) == (
        "field holds a float, which the data model does not have"
    )


def test_nothing_of_a_document_is_run() -> None:
    nasty = 'x\'] or exit() #\n"""\\'
    validate = validator_of(
        {
            nasty: {"type": "string", "const": nasty},
            "enum": {"type": "string", "enum": [nasty, "b"]},
            "blob": {"type": "blob", "accept": [nasty, "{0}/*"]},
        }
    )
    assert validate({"$type": "com.example.thing", nasty: nasty, "enum": nasty}) is None
    found = validate({"$type": "com.example.thing", nasty: "other"})
    assert found is not None and found.startswith(f"{nasty} is not ")
    assert validate({"$type": "com.example.thing", "blob": image()["image"]}) is not None
