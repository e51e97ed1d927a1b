"""Lexicon validation against interop vectors, real records, repository exports, and verdicts of the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from libipld import decode_dag_cbor_multi

from appview_pipeline.protocol import car, cbor
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon import LexiconError, Lexicons, compile_lexicons
from appview_pipeline.protocol.lexicon_documents import problem
from appview_pipeline_tests.support.lexicons import (
    CONFORMANCE,
    LEXICONS,
    MAIN_TYPES,
    RAW,
    from_json,
    needs_conformance,
    reason,
)


def vectors(name: str) -> list[dict[str, Any]]:
    path = CONFORMANCE / "interop" / "lexicon" / name
    return json.loads(path.read_text()) if path.exists() else []


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
