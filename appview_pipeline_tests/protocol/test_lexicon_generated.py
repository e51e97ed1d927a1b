"""Generated records: validation never raises, and a second implementation agrees."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon_documents import absolute
from appview_pipeline_tests.support.lexicons import DID, DOCUMENTS, LEXICONS, MAIN_TYPES, NOT_RAW, NOW, POST_URI, RAW

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
