"""Validation of records against Lexicon documents, as strict as the reference AppView's strict mode.

Specifications: https://atproto.com/specs/lexicon, https://atproto.com/specs/data-model. Where those leave room, the
reference's `@atproto/lex-schema` in its strict mode decides: integers are JavaScript's safe ones, a blob has exactly
its four fields and a `raw` CID, an object may carry a `$type` only if it is its own, `unknown` is an object of the
data model, open unions let through what they don't know, fields that a schema doesn't name are never looked at.

Records make up nearly all of the firehose, so a schema is not interpreted: `Lexicons` has one Python function written
per definition (`lexicon_source.py`) and compiles it (`exec`). That costs a like 1 to 2 us, where a tree of closures
costs three times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from appview_pipeline.protocol.lexicon_documents import Node, absolute, problem, type_name
from appview_pipeline.protocol.lexicon_runtime import RUNTIME
from appview_pipeline.protocol.lexicon_source import SCALAR, FunctionWriter

RecordValidator = Callable[[Any], "str | None"]
"""None: the record is valid. Otherwise why it is not, in words that begin with the path of the offending field."""

_HOLDABLE = SCALAR | {"array", "object", "record"}


class LexiconError(ValueError):
    """A Lexicon document is malformed, or refers to a definition that no document has."""


def compile_lexicons(documents: Iterable[Mapping[str, Any]]) -> Lexicons:
    """Checks Lexicon documents (parsed JSON) and makes them ready to validate records.

    Raises `LexiconError` for a malformed document and for two documents of one NSID.
    """
    definitions: dict[str, Node] = {}
    seen: set[str] = set()
    for document in documents:
        if found := problem(document):
            raise LexiconError(f"malformed Lexicon document: {found}")
        nsid = document["id"]
        if nsid in seen:
            raise LexiconError(f"there are two Lexicon documents {nsid}")
        seen.add(nsid)
        for name, definition in document["defs"].items():
            definitions[f"{nsid}#{name}"] = definition
    return Lexicons(definitions)


class Lexicons:
    """The definitions of a set of Lexicon documents. Made by `compile_lexicons`."""

    def __init__(self, definitions: Mapping[str, Node]) -> None:
        self._definitions = definitions
        # The globals of the generated functions: what they call, each other, and the tables of unions.
        self._namespace: dict[str, Any] = dict(RUNTIME)
        self._functions: dict[tuple[str, bool], str] = {}
        self._tables: list[tuple[dict[str, Any], dict[str, str]]] = []
        self._recursive: dict[str, bool] = {}
        self.record_types = frozenset(
            type_name(name) for name, definition in definitions.items() if definition["type"] == "record"
        )

    def record_validator(self, nsid: str) -> RecordValidator:
        """The validator of records of the type `nsid`; compiled when first asked for, milliseconds.

        It takes a record as decoded from DAG-CBOR: dict, list, str, int, bool, None, bytes, and `Link` for CIDs. It
        never raises on such values, nor on others (a float in an `unknown` field is a reason like any other). It
        looks neither at the key nor at the size of the record.

        Raises `KeyError` when no document defines a record of that type, and `LexiconError` when it refers to a
        definition that is missing.
        """
        if nsid not in self.record_types:
            raise KeyError(nsid)
        # First, because half a compilation would leave functions behind that call missing ones.
        self._check_reachable(f"{nsid}#main")
        function = self.function(f"{nsid}#main", is_root=True)
        for table, functions in self._tables:
            table.update({kind: self._namespace[name] for kind, name in functions.items()})
        self._tables.clear()
        validator: RecordValidator = self._namespace[function]
        return validator

    def definition(self, name: str) -> Node:
        """The definition of that full name (`nsid#name`). Raises `LexiconError` where no document has it."""
        try:
            return self._definitions[name]
        except KeyError:
            raise LexiconError(f"no Lexicon document defines {type_name(name)}, which another refers to") from None

    def function(self, name: str, is_root: bool = False) -> str:
        """The name of the compiled function of a definition, with all that it calls compiled too."""
        key = (name, is_root)
        if key not in self._functions:
            # Known before it is written, so that definitions may refer to each other in circles.
            function = self._functions[key] = f"check_{len(self._functions)}"
            source = FunctionWriter(self, name, is_root).write(function)
            # Only our own templates and reprs of literals are in there, see `lexicon_source.py`.
            exec(compile(source, f"<lexicon {type_name(name)}>", "exec"), self._namespace)  # noqa: S102
        return self._functions[key]

    def union_table(self, members: Mapping[str, str]) -> str:
        """The name of a function from `$type` to the function that checks it, or None.

        `members` maps each `$type` to the full name of its definition. The table is filled when all functions exist.
        """
        table: dict[str, Any] = {}
        name = f"member_{len(self._namespace)}"
        self._namespace[name] = table.get
        self._tables.append((table, {kind: self.function(member) for kind, member in members.items()}))
        return name

    def _reachable(self, name: str) -> set[str]:
        """The definitions that a definition refers to, directly or not; itself if it can be met again inside itself."""
        reached: set[str] = set()
        frontier = _references(self.definition(name), name)
        while frontier:
            reference = frontier.pop()
            if reference not in reached:
                reached.add(reference)
                frontier |= _references(self.definition(reference), reference)
        return reached

    def _check_reachable(self, name: str) -> None:
        for reference in self._reachable(name):
            kind = self.definition(reference)["type"]
            if kind not in _HOLDABLE:
                raise LexiconError(
                    f"{type_name(name)} refers to {type_name(reference)}, a {kind}, which no record can hold"
                )

    def is_recursive(self, name: str) -> bool:
        """Whether a definition can be met again inside itself."""
        if name not in self._recursive:
            self._recursive[name] = name in self._reachable(name)
        return self._recursive[name]


def _references(schema: Node, inside: str) -> set[str]:
    """The full names of the definitions that `schema`, a part of the definition `inside`, refers to directly."""
    nsid = inside.partition("#")[0]
    match schema["type"]:
        case "ref":
            return {absolute(schema["ref"], nsid)}
        case "union":
            return {absolute(reference, nsid) for reference in schema["refs"]}
        case "array":
            return _references(schema["items"], inside)
        case "record":
            return _references(schema["record"], inside)
        case "object":
            parts = schema.get("properties", {}).values()
            return {reference for part in parts for reference in _references(part, inside)}
    return set()
