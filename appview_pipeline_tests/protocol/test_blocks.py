"""CIDs, record CBOR and CARs."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libipld import encode_dag_cbor

from appview_pipeline.protocol import car, cbor, cid
from appview_pipeline.protocol.cbor import InvalidRecord, Link
from appview_pipeline.protocol.record_json import record_from_json

LINK = cid.cid_for_cbor(b"a record")
BLOB = cid.cid_for_raw(b"a blob")

# --- CIDs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [LINK, BLOB])
def test_cid_text(value: bytes) -> None:
    text = cid.to_text(value)
    assert cid.from_text(text) == value
    assert cid.is_cid(value)
    assert cid.is_parsable(text)
    assert cid.is_dag_cbor(value) == (value is LINK)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bafyrei",
        cid.to_text(LINK).upper(),
        cid.to_text(LINK)[:-1] + "b",  # bits set past the last byte
        cid.to_text(LINK) + "a",
        "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR",
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb
    ],
)
def test_from_text_takes_the_two_kinds_of_cid_only(text: str) -> None:
    with pytest.raises(ValueError, match="not a CID"):
        cid.from_text(text)


def test_is_parsable_looks_inside() -> None:
    assert cid.is_parsable("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
    assert cid.is_parsable("zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7")
    assert not cid.is_parsable("bafyreiguce4jh7kcbmof3pmcvasifqtw24b6isakj5ve5ga2b4z4alpc")
    assert not cid.is_parsable("noop")
    assert not cid.is_parsable("ü" * 30)


# --- records ---------------------------------------------------------------------------------------------------------


def test_data_model_vectors(conformance: Path) -> None:
    vectors = json.loads((conformance / "interop" / "data-model" / "data-model-fixtures.json").read_text())
    assert len(vectors) >= 3
    for vector in vectors:
        block = base64.b64decode(vector["cbor_base64"] + "==")
        assert cid.to_text(cid.cid_for_cbor(block)) == vector["cid"]
        record, text = cbor.decode_record_json(block)
        assert json.loads(text) == vector["json"]
        assert cbor.decode_exact(block) == record


def test_links_and_bytes_are_kept_apart() -> None:
    block = b"\xa3\x61a\xd8\x2a\x58\x25\x00" + LINK + b"\x61b\x58\x24" + LINK + b"\x61c\x42\xff\x00"
    record, text = cbor.decode_record_json(block)
    assert [type(value) for value in record.values()] == [Link, bytes, bytes]
    assert json.loads(text) == {
        "a": {"$link": cid.to_text(LINK)},
        "b": {"$bytes": base64.b64encode(LINK).decode()},
        "c": {"$bytes": "/wA"},
    }
    assert cbor.as_lexicon(record)["a"] == LINK
    assert cbor.record_json(record) == text


def test_bytes_that_equal_a_link_of_the_same_record_stay_bytes() -> None:
    for first, second in ((Link, bytes), (bytes, Link)):
        heads = {Link: b"\xd8\x2a\x58\x25\x00", bytes: b"\x58\x24"}
        block = b"\xa2\x61a" + heads[first] + LINK + b"\x61b" + heads[second] + LINK
        assert [type(value) for value in cbor.decode_record(block).values()] == [first, second]


def test_a_link_with_a_longer_tag_header_is_a_link_still() -> None:
    record, _ = cbor.decode_record_json(b"\xa1\x61a\xd9\x00\x2a\x58\x25\x00" + LINK)
    assert type(record["a"]) is Link


def test_blobs_deep_in_a_record() -> None:
    blob = {"$type": "blob", "ref": BLOB, "mimeType": "image/png", "size": 9}
    record, text = cbor.decode_record_json(encode_dag_cbor({"embed": {"images": [{"image": blob}, {"image": blob}]}}))
    assert {type(image["image"]["ref"]) for image in record["embed"]["images"]} == {Link}
    assert text.count(f'{{"$link":"{cid.to_text(BLOB)}"}}') == 2


def test_nul_is_dropped_from_text_and_nothing_else_is() -> None:
    odd = 'tab\t line\n back\\slash \\u0000 \\N quote" \u202e bidi \U0001f600 \x01'
    sent = {"a": ["x\0y\0", {"c": "\0"}], "d": odd}
    record, text, as_sent = cbor.decode_as_sent(encode_dag_cbor(sent))
    assert record == {"a": ["xy", {"c": ""}], "d": odd}
    assert json.loads(text) == record
    assert as_sent == sent


ODD_KEYS = ["te\0xt", "text\0", "\0text", "\0", "$ty\0pe", "__proto__", "__proto__\0", "other\0"]


@pytest.mark.parametrize("key", ODD_KEYS)
@pytest.mark.parametrize("value", [1, "x", "\0", None, {"x": 1}, [], {"text": {"__proto__": "a\0"}}])
def test_a_key_that_cannot_be_kept_goes_with_its_value(key: str, value: Any) -> None:
    """Whichever of two keys comes first, and at any depth: the other keeps its own value."""
    for known in ({"text": "kept", "$type": "a"}, {}):
        for entries in ({key: value, **known}, {**known, key: value}):
            block = encode_dag_cbor({"text": "top", "deep": [{"a": entries}], **entries})
            record, text = cbor.decode_record_json(block)
            assert record == {"text": "top", "deep": [{"a": known}], **known}
            assert json.loads(text) == record
            assert record_from_json(text) == record


@pytest.mark.parametrize(
    "value",
    [
        {"$link": cid.to_text(LINK), "\0": 1},
        {"$link": cid.to_text(LINK), "__proto__": 1},
        {"$bytes": "YQ", "$li\0nk": 1},
        {"$link": cid.to_text(LINK) + "\0"},
        {"$bytes": "YQ\0"},
    ],
)
def test_a_map_never_becomes_a_link_or_bytes(value: dict[str, Any]) -> None:
    for record in (value, {"a": value}, {"a": [{"b": value}]}):
        with pytest.raises(InvalidRecord):
            cbor.decode_record_json(encode_dag_cbor(record))


def test_the_key_proto_is_neither_text_nor_a_longer_key() -> None:
    sent = {"text": "__proto__", "__proto__x": 1, "x__proto__": {"_proto_": 1}, '"__proto__"': 2}
    record, text = cbor.decode_record_json(encode_dag_cbor(sent))
    assert record == sent == json.loads(text)


LOOKALIKES: list[Any] = [
    *({"$link": text} for text in ("x", "", "b", "bafy", cid.to_text(LINK).upper(), "Qm" + "a" * 44, "zabc", "\u20ac")),
    *({"$bytes": text} for text in ("!", "YQ==", "Y", "YR", "a b", "\u20ac", "_-")),
    *({"$link": 5}, {"$bytes": None}, {"$link": {}}, {"$link": cid.to_text(LINK), "a": 1}, {"$bytes": "YQ", "a": 1}),
    {"$link": [{"$link": "x"}]},
]


@pytest.mark.parametrize("value", LOOKALIKES)
def test_a_map_that_looks_like_a_link_comes_back_from_json(value: Any) -> None:
    """Stored records are read again when a duplicate takes its place: whatever they hold."""
    for sent in ({"a": value}, {"a": [value, {"b": [value]}]}, value):
        record, text = cbor.decode_record_json(encode_dag_cbor(sent))
        assert record == sent == record_from_json(text)


def test_links_of_other_kinds_come_back_from_json() -> None:
    for codec in range(128):
        link = bytes((1, codec)) + LINK[2:]
        record, text = cbor.decode_record_json(encode_dag_cbor({"a": [link]}))
        again = record_from_json(text)
        assert again == record and type(again["a"][0]) is Link


@given(
    st.recursive(
        st.text(max_size=6) | st.integers(0, 9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["$link", "$bytes", "$type", "__proto__", "a", "a\0", "\0"]), inner, max_size=3
            )
        ),
    )
)
def test_stored_json_gives_the_record_back(value: Any) -> None:
    with suppress(InvalidRecord):
        _, text = cbor.decode_record_json(encode_dag_cbor({"a": value}))
        assert "\\u0000" not in text and '"__proto__":' not in text
        assert cbor.record_json(record_from_json(text)) == text


MAX = 2**53 - 1


@pytest.mark.parametrize(
    "block", [encode_dag_cbor({"a": n}) for n in (MAX, -MAX, 0, -1, 23, 24, 255, 256, 65536, 2**32)]
)
def test_integers_within_53_bits(block: bytes) -> None:
    record, text = cbor.decode_record_json(block)
    assert json.loads(text) == record == cbor.decode_exact(block)


def nested(levels: int) -> bytes:
    return b"\xa1\x61a" + b"\x81" * (levels - 2) + b"\x80"


REFUSED = {
    "float 64": b"\xa1\x61a\xfb\x3f\xf8" + bytes(6),
    "float 64, whole number": b"\xa1\x61a\xfb\x3f\xf0" + bytes(6),
    "float 32": b"\xa1\x61a\xfa\x3f\xc0\x00\x00",
    "float 16": b"\xa1\x61a\xf9\x3c\x00",
    "NaN": b"\xa1\x61a\xfb\x7f\xf8" + bytes(6),
    "2^53": b"\xa1\x61a\x1b\x00\x20" + bytes(6),
    "-2^53": b"\xa1\x61a\x3b\x00\x1f" + b"\xff" * 6,
    "2^64-1": b"\xa1\x61a\x1b" + b"\xff" * 8,
    "-2^64": b"\xa1\x61a\x3b" + b"\xff" * 8,
    "key twice": b"\xa2\x61a\x01\x61a\x02",
    "key twice, not side by side": b"\xa3\x61b\x01\x61a\x02\x61b\x03",
    "indefinite map": b"\xbf\x61a\x01\xff",
    "indefinite array": b"\xa1\x61a\x9f\x01\xff",
    "indefinite text": b"\xa1\x61a\x7f\x61b\xff",
    "reserved length": b"\xa1\x61a\x1c",
    "tag 1": b"\xa1\x61a\xc1\x01",
    "link without prefix": b"\xa1\x61a\xd8\x2a\x58\x24" + LINK,
    "link with another prefix": b"\xa1\x61a\xd8\x2a\x58\x25\x01" + LINK,
    "link with a byte too many": b"\xa1\x61a\xd8\x2a\x58\x26\x00" + LINK + b"\x00",
    "link that is text": b"\xa1\x61a\xd8\x2a\x61a",
    "link of version 0": b"\xa1\x61a\xd8\x2a\x58\x23\x00\x12\x20" + bytes(32),
    "link with another hash": b"\xa1\x61a\xd8\x2a\x58\x25\x00\x01\x71\x13\x20" + bytes(32),
    "key of bytes": b"\xa1\x41a\x01",
    "key that is a number": b"\xa1\x01\x01",
    "undefined": b"\xa1\x61a\xf7",
    "simple value": b"\xa1\x61a\xf8\xf5",
    "invalid UTF-8": b"\xa1\x61a\x61\xff",
    "overlong NUL": b"\xa1\x61a\x62\xc0\x80",
    "surrogate": b"\xa1\x61a\x63\xed\xa0\x80",
    "invalid UTF-8 in a key": b"\xa1\x61\xff\x01",
    "byte after the record": b"\xa1\x61a\x01\x00",
    "no map": b"\x81\x01",
    "text": b"\x63abc",
    "nothing": b"",
    "cut in a head": b"\xa1\x61a\x19\x01",
    "cut in a text": b"\xa1\x61a\x63ab",
    "cut in a map": b"\xa2\x61a\x01",
    "array longer than the block": b"\xa1\x61a\x9b\x00\x00\x0f\xff\xff\xff\xff\xff",
    "text longer than the block": b"\xa1\x61a\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "513 levels": nested(513),
    "100,000 levels": nested(100_000),
    "too big": encode_dag_cbor({"a": "x" * 1_000_000}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_record(name: str) -> None:
    with pytest.raises(InvalidRecord):
        cbor.decode_record_json(REFUSED[name])
    if name != "too big":
        with pytest.raises(InvalidRecord):
            cbor.decode_exact(REFUSED[name])


@pytest.mark.parametrize("levels", [32, 33, 127, 253, 254, 255, 256, 511, 512])
def test_up_to_512_levels_are_a_record(levels: int) -> None:
    """Also where they are maps, and hold links: below and above what the JSON encoder goes down by itself."""
    for inner in (b"\x81" * (levels - 2) + b"\x80", b"\xa1\x61a" * (levels - 1) + b"\xd8\x2a\x58\x25\x00" + LINK):
        _, text = cbor.decode_record_json(b"\xa1\x61a" + inner)
        assert text.count("{") + text.count("[") in (levels, levels + 1)
        assert cbor.record_json(record_from_json(text)) == text


def test_one_million_bytes_are_a_record() -> None:
    cbor.decode_record_json(encode_dag_cbor({"a": "{" * 100}))
    cbor.decode_record_json(encode_dag_cbor({"a": "x" * 999_992}))


def test_bytes_as_sent_count_even_if_not_canonical() -> None:
    """The reference stores them too."""
    assert cbor.decode_record(b"\xa2\x61b\x01\x61a\x02") == {"b": 1, "a": 2}
    assert cbor.decode_record(b"\xb8\x01\x78\x01a\x18\x01") == {"a": 1}


def json_values(links: bool) -> st.SearchStrategy[Any]:
    # libipld writes byte strings that happen to be a CID as links.
    no_links = st.binary(max_size=40).filter(lambda value: encode_dag_cbor(value)[0] >> 5 == 2)
    leaves = st.none() | st.booleans() | st.integers(-MAX, MAX) | st.text() | no_links
    if links:
        leaves |= st.binary(min_size=32, max_size=32).map(lambda digest: cid.DAG_CBOR + digest)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
    )


@given(st.dictionaries(st.text(), json_values(links=True), max_size=5))
def test_the_fast_decoder_agrees_with_the_exact_one(value: dict[str, Any]) -> None:
    block = encode_dag_cbor(value)
    record, text = cbor.decode_record_json(block)
    exact = cbor.decode_exact(block)
    assert record == exact
    assert text == cbor.record_json(exact)


@given(st.dictionaries(st.text(max_size=3), json_values(links=True), max_size=3), st.data())
def test_both_decoders_refuse_the_same_damage(value: dict[str, Any], data: st.DataObject) -> None:
    block = bytearray(encode_dag_cbor(value))
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    results: list[Any] = []
    for decode in (cbor.decode_record, cbor.decode_exact):
        try:
            results.append(cbor.record_json(decode(bytes(block))))
        except InvalidRecord:
            results.append(None)
    assert results[0] == results[1]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_record_or_refused(block: bytes) -> None:
    for prefix in (b"", b"\xa1\x61a", b"\xa1\x61a\x83"):
        with suppress(InvalidRecord):
            json.loads(cbor.decode_record_json(prefix + block)[1])


# --- CARs ------------------------------------------------------------------------------------------------------------


def test_car_vectors(conformance: Path) -> None:
    for vector in json.loads((conformance / "interop" / "extra" / "car-file-fixtures.json").read_text()):
        data = base64.b64decode(vector["car"] + "==")
        blocks = {cid.from_text(block["cid"]): base64.b64decode(block["bytes"] + "==") for block in vector["blocks"]}
        root = cid.from_text(vector["root"])
        assert car.read_car(data) == ([root], blocks)
        assert car.write_car(root, blocks) == data
        roots, index = car.index_blocks(data)
        assert roots == [root]
        assert {key: data[start:end] for key, (start, end) in index.items()} == blocks
        lazy = car.Blocks(data)
        assert {key: lazy.get(key) for key in blocks} == blocks


@given(st.lists(st.binary(max_size=20_000), max_size=5, unique=True), st.booleans())
def test_cars_come_back(contents: list[bytes], cut: bool) -> None:
    blocks = {cid.cid_for_cbor(content): content for content in contents}
    data = car.write_car(LINK, blocks)
    assert car.read_car(data) == ([LINK], blocks)
    lazy = car.Blocks(data)
    assert {key: lazy.get(key) for key in blocks} == blocks
    assert lazy.get(LINK) is None
    if cut and contents:
        with pytest.raises(car.InvalidCar):
            car.read_car(data[:-1])
        with pytest.raises(car.InvalidCar):
            car.index_blocks(data[:-1])


def test_a_cid_at_the_end_of_another_block_does_not_hide_the_section() -> None:
    """The guess by last occurrence fails here, and the walk finds the block."""
    block = b"\x65hello"
    key = cid.cid_for_cbor(block)
    holder = b"\x58\x64" + key + b"\x7f" * 64
    data = car.write_car(LINK, {key: block, cid.cid_for_cbor(holder): holder})
    assert data.rfind(key) > data.find(key)
    assert car.Blocks(data).get(key) == block


def test_absent_altered_and_unreachable_blocks() -> None:
    block = b"\x65hello"
    key = cid.cid_for_cbor(block)
    altered = car.write_car(LINK, {key: b"\x65hullo"})
    assert car.Blocks(altered).get(key) is None
    assert car.Blocks(altered).absence(key) == ("block does not hash to its CID", b"\x65hullo")
    with pytest.raises(car.InvalidCar, match="hash"):
        car.read_car(altered)
    empty = car.Blocks(car.write_car(LINK, {}))
    assert empty.get(key) is None
    assert empty.absence(key) == ("block is missing", None)
    damaged = car.Blocks(car.write_car(LINK, {key: block})[:-1])
    assert damaged.get(key) is None
    assert damaged.absence(key)[0].startswith("block was not found in a damaged CAR")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x01\xa0",
        b"\xff" * 20,
        b"\xff\xff\xff\xff\x7f",
        b"\x0a\xa1\x67version\x01",
        b"\x11\xa2\x65roots\x80\x67version\x02",
        b"\x11\xa2\x65roots\x01\x67version\x01",
    ],
)
def test_what_is_no_car(data: bytes) -> None:
    for read in (car.read_car, car.index_blocks, car.Blocks):
        with pytest.raises(car.InvalidCar):
            read(data)


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_a_car_or_refused(tail: bytes, headed: bool) -> None:
    data = (car.write_car(LINK, {}) if headed else b"") + tail
    for read in (car.read_car, car.index_blocks):
        with suppress(car.InvalidCar):
            read(data)
    with suppress(car.InvalidCar):
        car.Blocks(data).get(tail[1:37])
