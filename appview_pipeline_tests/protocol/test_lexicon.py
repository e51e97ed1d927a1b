"""Lexicon validation: the interop vectors, real records, the reference's verdicts, and lexrpc as a second opinion."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libipld import decode_dag_cbor_multi

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.lexicons import load_documents
from appview_pipeline.protocol import car, cbor, cid, graphemes
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon import MAX_DEPTH, LexiconError, Lexicons, compile_lexicons
from appview_pipeline.protocol.lexicon_documents import absolute, problem
from appview_pipeline.protocol.lexicon_formats import FORMATS, USUAL
from appview_pipeline_tests.support.checkout import SHARED

CONFORMANCE = SHARED / "conformance"
needs_conformance = pytest.mark.skipif(
    not CONFORMANCE.is_dir(), reason="the conformance data (../shared/conformance) is not there"
)

# The record types that an AppView indexes or keeps (27 with those of the newest lexicons).
MAIN_TYPES = [
    "app.bsky.actor.contentVisibilityDeclaration",
    "app.bsky.actor.profile",
    "app.bsky.actor.status",
    "app.bsky.feed.generator",
    "app.bsky.feed.like",
    "app.bsky.feed.post",
    "app.bsky.feed.postgate",
    "app.bsky.feed.repost",
    "app.bsky.feed.threadgate",
    "app.bsky.graph.block",
    "app.bsky.graph.follow",
    "app.bsky.graph.list",
    "app.bsky.graph.listblock",
    "app.bsky.graph.listitem",
    "app.bsky.graph.referencelistoptout",
    "app.bsky.graph.starterpack",
    "app.bsky.graph.verification",
    "app.bsky.labeler.service",
    "app.bsky.notification.declaration",
    "chat.bsky.actor.declaration",
    "com.atproto.lexicon.schema",
    "com.germnetwork.declaration",
    "site.standard.document",
    "site.standard.graph.recommend",
    "site.standard.graph.subscription",
    "site.standard.publication",
    "site.standard.theme.basic",
]

DOCUMENTS = load_documents()
LEXICONS = compile_lexicons(DOCUMENTS)
RAW = Link(cid.cid_for_raw(b"picture"))
NOT_RAW = Link(cid.cid_for_cbor(b"\xa0"))
NOW = "2026-07-04T12:34:56.789Z"
DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
POST_URI = f"at://{DID}/app.bsky.feed.post/3kznmn7xqxl22"
STRONG_REF = {"uri": POST_URI, "cid": cid.to_text(NOT_RAW)}


def reason(record: dict[str, Any]) -> str | None:
    return LEXICONS.record_validator(record["$type"])(record)


def post(**fields: Any) -> dict[str, Any]:
    return {"$type": "app.bsky.feed.post", "text": "hello", "createdAt": NOW, **fields}


def image(**fields: Any) -> dict[str, Any]:
    blob = {"$type": "blob", "ref": RAW, "mimeType": "image/jpeg", "size": 1000}
    return {"alt": "", "image": blob | fields}


def images(*items: dict[str, Any]) -> dict[str, Any]:
    return {"$type": "app.bsky.embed.images", "images": list(items)}


def document(definitions: dict[str, Any], nsid: str = "com.example.thing") -> dict[str, Any]:
    return {"lexicon": 1, "id": nsid, "defs": definitions}


def validator_of(properties: dict[str, Any], **definitions: Any) -> Any:
    record = {"type": "record", "key": "tid", "record": {"type": "object", "properties": properties}}
    return compile_lexicons([document({"main": record, **definitions})]).record_validator("com.example.thing")


# --- interop vectors -------------------------------------------------------------------------------------------------


def vectors(name: str) -> list[dict[str, Any]]:
    path = CONFORMANCE / "interop" / "lexicon" / name
    return json.loads(path.read_text()) if path.exists() else []


def from_json(value: Any) -> Any:
    """JSON form of the data model to what the decoder gives."""
    if isinstance(value, dict):
        if value.keys() == {"$link"}:
            return Link(cid.from_text(value["$link"]))
        if value.keys() == {"$bytes"}:
            return b64decode(value["$bytes"] + "=" * (-len(value["$bytes"]) % 4))
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def with_raw_blobs(value: Any) -> Any:
    """The vectors' blobs carry a DAG-CBOR CID, which the reference's strict mode refuses and we with it; with raw ones
    they are about what they say they are about."""
    if isinstance(value, dict):
        blob = isinstance(value.get("ref"), Link) and "mimeType" in value
        return {key: RAW if blob and key == "ref" else with_raw_blobs(item) for key, item in value.items()}
    return value


def catalog() -> Lexicons:
    return compile_lexicons(
        json.loads(path.read_text())
        for path in sorted((CONFORMANCE / "interop" / "lexicon" / "catalog").glob("*.json"))
    )


@needs_conformance
def test_interop_vectors_are_all_there() -> None:
    counts = [
        len(vectors(f"{name}.json"))
        for name in ("record-data-valid", "record-data-invalid", "lexicon-valid", "lexicon-invalid")
    ]
    assert counts == [3, 50, 3, 7]


@needs_conformance
@pytest.mark.parametrize("vector", vectors("record-data-valid.json"), ids=lambda v: v["name"])
def test_interop_valid_record(vector: dict[str, Any]) -> None:
    data = from_json(vector["data"])
    validate = catalog().record_validator(data["$type"])
    assert validate(with_raw_blobs(data)) is None
    if "blob" in data:
        assert validate(data) == "blob.ref is not a CID link to raw bytes"


@needs_conformance
@pytest.mark.parametrize("vector", vectors("record-data-invalid.json"), ids=lambda v: v["name"])
def test_interop_invalid_record(vector: dict[str, Any]) -> None:
    data = with_raw_blobs(from_json(vector["data"]))
    # Some lack the required integer when they are about something else; the others must fail for what they are about.
    found = catalog().record_validator(data["$type"])(data)
    assert found
    if "integer" in data and vector["name"] != "invalid integer field":
        assert not found.startswith("integer ")


@needs_conformance
@pytest.mark.parametrize("vector", vectors("lexicon-valid.json"), ids=lambda v: v["name"])
def test_interop_valid_document(vector: dict[str, Any]) -> None:
    assert problem(vector["lexicon"]) is None
    compile_lexicons([vector["lexicon"]])


@needs_conformance
@pytest.mark.parametrize("vector", vectors("lexicon-invalid.json"), ids=lambda v: v["name"])
def test_interop_invalid_document(vector: dict[str, Any]) -> None:
    assert problem(vector["lexicon"])
    with pytest.raises(LexiconError, match="malformed"):
        compile_lexicons([vector["lexicon"]])


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


# --- real records ----------------------------------------------------------------------------------------------------


def corpus() -> list[tuple[str, dict[str, Any]]]:
    """Path and record of every create and update in the 150 real frames."""
    packed = (CONFORMANCE / "frames" / "jetstream-corpus" / "frames.bin.zst").read_bytes()
    frames = zstandard.ZstdDecompressor().decompress(packed, max_output_size=1 << 28)
    records = []
    position = 0
    while position < len(frames):
        start = position + 4
        position = start + int.from_bytes(frames[position:start], "little")
        _, body = decode_dag_cbor_multi(frames[start:position])
        blocks = dict(car.iter_blocks(body["blocks"])) if "blocks" in body else {}
        records += [(op["path"], cbor.decode_record(blocks[op["cid"]])) for op in body.get("ops", ()) if op["cid"]]
    return records


@needs_conformance
def test_all_records_of_the_corpus_are_valid() -> None:
    verdicts = {
        path: LEXICONS.record_validator(path.split("/")[0])(record)
        for path, record in corpus()
        if path.split("/")[0] in LEXICONS.record_types
    }
    assert len(verdicts) == 145
    assert set(verdicts.values()) == {None}


@needs_conformance
@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        ("arroba-snarfed2", []),
        ("jetstream-corpus-repo", []),
        ("microcosm-tiny", []),
        # The reference rejects the same two; the other three in its list fail for their rkey, not their lexicon.
        ("dart-repo", ["embed.images[0].image is not a blob"] * 2),
    ],
)
def test_records_of_repository_exports(name: str, rejected: list[str]) -> None:
    found = []
    for _, block in car.iter_blocks((CONFORMANCE / "cars" / f"{name}.car").read_bytes()):
        record = cbor.decode_record(block)
        if record.get("$type") in MAIN_TYPES and (why := reason(record)):
            found.append(why)
    assert found == rejected


@needs_conformance
@pytest.mark.parametrize("path", sorted((CONFORMANCE / "scenarios").glob("[0-9]*.json")), ids=lambda path: path.stem)
def test_verdicts_on_the_scenarios_are_the_reference_s(path: Path) -> None:
    scenario = json.loads(path.read_text())
    ours = set()
    for step in scenario["steps"]:
        commit = step.get("commit", {})
        for op in commit.get("ops", ()):
            # The reference ignores collections of others.
            if op.get("record") is None or op["collection"] not in MAIN_TYPES:
                continue
            if LEXICONS.record_validator(op["collection"])(from_json(op["record"])):
                ours.add(f"at://{commit['did']}/{op['collection']}/{op['rkey']}")
    theirs = {
        rejection["subject"]
        for state in scenario["expected"].values()
        for rejection in state["rejected"]
        if rejection["error"].startswith("LexValidationError")
    }
    assert ours == theirs


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


# --- documents -------------------------------------------------------------------------------------------------------


def test_all_published_documents_are_well_formed_and_all_record_types_compile() -> None:
    assert len(DOCUMENTS) > 400
    assert set(MAIN_TYPES) <= LEXICONS.record_types
    for nsid in LEXICONS.record_types:
        assert LEXICONS.record_validator(nsid)({"$type": "wrong"}) == f"$type is not {nsid}"


def test_a_reference_to_nothing_is_named() -> None:
    record = {"type": "object", "properties": {"x": {"type": "ref", "ref": "com.example.other#part"}}}
    lexicons = compile_lexicons([document({"main": {"type": "record", "key": "tid", "record": record}})])
    with pytest.raises(LexiconError, match=r"com\.example\.other#part"):
        lexicons.record_validator("com.example.thing")
    with pytest.raises(KeyError):
        lexicons.record_validator("com.example.absent")
    with pytest.raises(LexiconError, match="two"):
        compile_lexicons([document({}), document({})])


def test_a_definition_may_be_nested_as_deeply_as_python_nests() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "integer"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        return schema

    validate = validator_of({"field": nested(15)})
    assert validate({"$type": "com.example.thing", "field": [[[5]]]}) == "field[0][0][0] is not an array"
    with pytest.raises(LexiconError, match="nested too deeply"):
        validator_of({"field": nested(17)})


def test_a_failed_compilation_leaves_nothing_behind() -> None:
    def holder(reference: str) -> dict[str, Any]:
        field = {"type": "ref", "ref": reference}
        return {"type": "record", "key": "tid", "record": {"type": "object", "properties": {"field": field}}}

    around: dict[str, Any] = {
        "type": "object",
        "properties": {"again": {"type": "ref", "ref": "#around"}, "bad": {"type": "ref", "ref": "com.example.call"}},
    }
    lexicons = compile_lexicons(
        [
            document({"main": holder("#around"), "around": around}),
            document({"main": {"type": "query"}}, "com.example.call"),
            document({"main": holder("com.example.thing#around")}, "com.example.second"),
            document({"main": holder("#fine"), "fine": {"type": "integer"}}, "com.example.third"),
        ]
    )
    for nsid in ("com.example.thing", "com.example.thing", "com.example.second"):
        with pytest.raises(LexiconError, match="a query, which no record can hold"):
            lexicons.record_validator(nsid)
    assert lexicons.record_validator("com.example.third")({"$type": "com.example.third", "field": 1}) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "ref", "string", "com.example.x", "#y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "ref", "refs", "items", "properties", "enum", "x"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
@settings(deadline=None)
def test_any_json_is_judged_as_a_document(value: Any) -> None:
    assert isinstance(problem(value), str)
    problem(document({"main": value}))
    record = {"type": "record", "key": "tid", "record": {"type": "object", "properties": {"field": value}}}
    if problem(document({"main": record})) is None:
        try:
            validate = compile_lexicons([document({"main": record})]).record_validator("com.example.thing")
        except LexiconError:
            return
        assert validate({"$type": "com.example.thing"}) is None


def test_documents_of_the_operator(tmp_path: Path) -> None:
    own = document({"main": {"type": "record", "key": "any", "record": {"type": "object", "properties": {}}}})
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "thing.json").write_text(json.dumps(own))
    follow = document(own["defs"], "app.bsky.graph.follow")
    (tmp_path / "follow.json").write_text(json.dumps(follow))
    lexicons = compile_lexicons(load_documents(tmp_path))
    assert "com.example.thing" in lexicons.record_types
    assert lexicons.record_validator("app.bsky.graph.follow")({"$type": "app.bsky.graph.follow"}) is None

    (tmp_path / "again.json").write_text(json.dumps(own))
    with pytest.raises(OperatorError, match=r"both define com\.example\.thing"):
        load_documents(tmp_path)
    (tmp_path / "again.json").write_text('{"lexicon": 2}')
    with pytest.raises(OperatorError, match=r"again\.json"):
        load_documents(tmp_path)
    (tmp_path / "again.json").write_text("{")
    with pytest.raises(OperatorError, match=r"again\.json"):
        load_documents(tmp_path)
    with pytest.raises(OperatorError, match="APPVIEW_LEXICON_DIR"):
        load_documents(tmp_path / "absent")


def test_loading_the_documents_runs_nothing_of_the_package_that_ships_them() -> None:
    program = (
        "import sys; from appview_pipeline.indexing.lexicons import load_documents; load_documents();"
        "print([name for name in sys.modules if name.partition('.')[0] in ('lexrpc', 'multiformats', 'requests')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- generated records: never an exception, and a second opinion -----------------------------------------------------

DEFINITIONS = {f"{doc['id']}#{name}": definition for doc in DOCUMENTS for name, definition in doc["defs"].items()}

TEXTS = {
    "at-identifier": ["alice.test", DID, "alice", ""],
    "at-uri": [POST_URI, f"at://{DID}", "at://alice.test/app.bsky.graph.list/x", f"{POST_URI}/x", "https://a.example"],
    "cid": [cid.to_text(RAW), cid.to_text(NOT_RAW), "bafy", ""],
    "datetime": [NOW, "2024-01-01T00:00:00+02:00", "2024-01-01T00:00:00", "2024-01-01T00:00:00-00:00", "yesterday"],
    "did": [DID, "did:web:example.com", "did:plc", "alice.test"],
    "handle": ["alice.test", "ALICE.test", "alice", "a b.test"],
    "language": ["en", "pt-BR", "zh-Hant", "EN", "x", "en_US"],
    "nsid": ["app.bsky.feed.post", "app.bsky", "app.bsky.feed.*"],
    "record-key": ["self", "3kznmn7xqxl22", ".", "a b"],
    "tid": ["3kznmn7xqxl22", "zzzzzzzzzzzzz", "3kz"],
    "uri": ["https://example.com/a?b#c", "at://alice.test", "mailto:a@b.example", "example.com", "http:///x", "a b:c"],
}
WRONG = st.sampled_from([None, True, 0, -1, "", "x", b"", b"xy", [], [None], {}, {"$type": "a.b.c"}, RAW, NOT_RAW])
BLOBS = st.fixed_dictionaries(
    {
        "$type": st.just("blob"),
        "ref": st.sampled_from([RAW] * 9 + [NOT_RAW, bytes(RAW)]),
        "mimeType": st.sampled_from(
            ["image/jpeg", "image/png", "video/mp4", "text/vtt", "application/octet-stream", "x"]
        ),
        "size": st.sampled_from([0, 1, 10_000, 10_000, 1_000_001, 2_000_001, 300_000_001, -1]),
    }
)


def one_in(count: int) -> st.SearchStrategy[bool]:
    return st.integers(1, count).map(lambda number: number == count)


@st.composite
def values(draw: st.DrawFn, schema: dict[str, Any], inside: str, depth: int = 0) -> Any:
    """A value that is mostly, not always, right for a schema of the definition `inside`."""
    if draw(one_in(60)):
        return draw(WRONG)
    nsid = inside.partition("#")[0]
    match schema["type"]:
        case "record":
            made = draw(values(schema["record"], inside, depth))
            return made | {"$type": nsid} if isinstance(made, dict) else made
        case "object":
            made = {}
            for name, part in schema.get("properties", {}).items():
                if name in schema.get("required", ()):
                    if not draw(one_in(80)):
                        made[name] = draw(values(part, inside, depth + 1))
                elif depth < 5 and draw(st.booleans()):
                    made[name] = draw(values(part, inside, depth + 1))
            if draw(one_in(8)):
                made["$type"] = inside.removesuffix("#main")
            if draw(one_in(40)):
                made["extra"] = draw(WRONG)
            return made
        case "array":
            low, high = schema.get("minLength", 0), schema.get("maxLength", 3)
            count = draw(st.sampled_from([low, low + 1, low + 1, min(high, 10), min(high, 10) + draw(one_in(10))]))
            return [draw(values(schema["items"], inside, depth + 1)) for _ in range(count)]
        case "ref":
            name = absolute(schema["ref"], nsid)
            return draw(values(DEFINITIONS[name], name, depth + 1))
        case "union":
            names = [absolute(reference, nsid) for reference in schema["refs"]]
            name = draw(st.sampled_from([*names, None]))
            if name is None or DEFINITIONS[name]["type"] not in ("object", "record"):
                return {"$type": "com.example.other", "x": 1}
            value = draw(values(DEFINITIONS[name], name, depth + 1))
            return value | {"$type": name.removesuffix("#main")} if isinstance(value, dict) else value
        case "string":
            return draw(texts(schema))
        case "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 100)
            return draw(
                st.sampled_from([low, high, (low + high) // 2, low - draw(one_in(10)), high + draw(one_in(10))])
            )
        case "boolean":
            return draw(st.booleans())
        case "bytes":
            return draw(st.binary(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 20), 50)))
        case "cid-link":
            return draw(st.sampled_from([RAW, NOT_RAW]))
        case "blob":
            return draw(BLOBS)
        case "token":
            return inside.removesuffix("#main")
    return draw(st.dictionaries(st.sampled_from(["a", "b"]), WRONG))


def texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "enum" in schema or "knownValues" in schema:
        return st.sampled_from([*(schema.get("enum") or schema["knownValues"]), "other"])
    if "format" in schema:
        good, *others = TEXTS[schema["format"]]
        return st.sampled_from([good] * (12 * len(others)) + others)
    limits = [schema[key] for key in ("maxGraphemes", "maxLength", "minLength", "minGraphemes") if key in schema] or [5]
    counts = [count for limit in limits for count in (limit - 1, limit, limit + 1) if 0 <= count < 3100]
    # Mostly short; else repetitions that meet a limit exactly or by one too many.
    return st.one_of(
        st.text(max_size=12),
        st.text(max_size=12),
        st.builds(
            lambda cluster, count: cluster * count,
            st.sampled_from(["a", "é", "日", "e\u0301"]),
            st.sampled_from(counts or [1]),
        ),
    )


def records(nsid: str) -> st.SearchStrategy[Any]:
    return values(DEFINITIONS[f"{nsid}#main"], f"{nsid}#main")


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.sampled_from([RAW, NOT_RAW]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["$type", "subject", "text", "embed", "createdAt", "reply", "images", "ref", "uri"]), inner
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.sampled_from(MAIN_TYPES), DATA)
@settings(deadline=None, max_examples=300)
def test_no_value_raises(nsid: str, value: Any) -> None:
    validate = LEXICONS.record_validator(nsid)
    if isinstance(value, dict):
        value = {**value, "$type": nsid}
    assert validate(value) is None or isinstance(validate(value), str)


@pytest.fixture(scope="module")
def second_opinion() -> Any:
    base = pytest.importorskip("lexrpc.base")
    base.logger.disabled = True  # it logs every type it doesn't know
    return base.Base(lexicons=DOCUMENTS)


def for_lexrpc(value: Any) -> Any:
    from multiformats import CID

    if isinstance(value, Link):
        return CID.decode(bytes(value))
    if isinstance(value, dict):
        return {key: for_lexrpc(item) for key, item in value.items()}
    return [for_lexrpc(item) for item in value] if isinstance(value, list) else value


# Where lexrpc lets pass what the reference refuses: it doesn't look into blobs, takes any text for a member of a union,
# doesn't compare the $type of a referred-to object, and knows less of datetimes and URIs.
STRICTER = re.compile(
    r"\.(mimeType|size|ref) is |blob with fields|is not of the format (datetime|uri)$|is not an object$|\$type is not"
)
# Where it refuses what the reference lets pass: in an array, it takes any reference to a string for one to a token.
LAXER = re.compile(r"ref \w+ with value .* is not com\.atproto\.\w+\.defs#", re.DOTALL)


@pytest.mark.parametrize("nsid", MAIN_TYPES)
@given(data=st.data())
@settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
def test_lexrpc_agrees(nsid: str, second_opinion: Any, data: st.DataObject) -> None:
    record = data.draw(records(nsid))
    ours = LEXICONS.record_validator(nsid)(record)
    try:
        second_opinion.validate(nsid, "record", for_lexrpc(record))
        theirs = None
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        theirs = f"{type(error).__name__}: {error}"
    if ours is None and theirs is not None:
        assert LAXER.search(theirs), theirs
    if ours is not None and theirs is None:
        assert STRICTER.search(ours), ours
