"""Lexicon documents: published, damaged, hostile, and an operator's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.lexicons import load_documents
from appview_pipeline.protocol.lexicon import LexiconError, compile_lexicons
from appview_pipeline.protocol.lexicon_documents import problem
from appview_pipeline_tests.support.lexicons import DOCUMENTS, LEXICONS, MAIN_TYPES, document, validator_of


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
def test_any_json_is_checked_as_a_document(value: Any) -> None:
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
