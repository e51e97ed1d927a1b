"""Lexicon documents: whether one is well formed, and what its references mean.

Follows the specification (https://atproto.com/specs/lexicon), version 1 of the language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from appview_pipeline.protocol.lexicon_formats import FORMATS
from appview_pipeline.protocol.syntax import is_nsid

# Documents are JSON, so their nodes are whatever JSON holds; `problem` is what makes them trustworthy.
Node = Mapping[str, Any]

_CONCRETE = frozenset({"boolean", "integer", "string", "bytes", "cid-link", "blob"})
_FIELD = _CONCRETE | {"unknown", "ref", "union", "array", "object"}
_NAMED = _CONCRETE | {"array", "object", "token"}
# `space` is the newest of these, not in the specification yet but in published documents.
_PRIMARY = frozenset({"record", "query", "procedure", "subscription", "permission-set", "space"})
_DEFINITION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_RECORD_KEY_TYPE = re.compile(r"any|tid|nsid|literal:[A-Za-z0-9._:~-]{1,512}")
_LIMITS = {
    "string": ("minLength", "maxLength", "minGraphemes", "maxGraphemes"),
    "bytes": ("minLength", "maxLength"),
    "array": ("minLength", "maxLength"),
    "blob": ("maxSize",),
}
_PYTHON_TYPE: dict[str, type] = {"boolean": bool, "integer": int, "string": str}


# Arrays and objects within each other in one definition; published documents have 3. Python can't nest many more.
_MAX_NESTING = 16


def absolute(reference: str, nsid: str) -> str:
    """The full name of a definition, `nsid#name`, for a `reference` made in the document `nsid`.

    `#name` means a definition of the same document, a bare NSID the `main` of that document.
    """
    if reference.startswith("#"):
        return nsid + reference
    return reference if "#" in reference else f"{reference}#main"


def type_name(definition: str) -> str:
    """The `$type` that stands for a definition given by its full name: `#main` is left off."""
    return definition.removesuffix("#main")


def problem(document: object) -> str | None:
    """What is wrong with a Lexicon document, in words; None when it is well formed.

    References may point to definitions that do not exist: documents come in any order.
    """
    if not isinstance(document, dict):
        return "it is not an object"
    if type(document.get("lexicon")) is not int or document["lexicon"] != 1:
        return "its field lexicon is not 1"
    nsid, definitions = document.get("id"), document.get("defs")
    if not isinstance(nsid, str) or not is_nsid(nsid):
        return "its id is not an NSID"
    if not isinstance(definitions, dict):
        return "it has no defs"
    return next((f"{nsid}: {found}" for found in _definition_problems(definitions)), None)


def _definition_problems(definitions: Node) -> Iterator[str]:
    for name, definition in definitions.items():
        if not _DEFINITION_NAME.fullmatch(name):
            yield f"{name!r} is not a name for a definition"
        elif not isinstance(definition, dict):
            yield f"{name} is not an object"
        elif not isinstance(definition.get("type"), str):
            yield f"{name} has no type"
        elif definition["type"] in _PRIMARY:
            if name != "main":
                yield f"{name} is of type {definition['type']}, which only main may be"
            yield from _primary_problems(definition)
        elif definition["type"] in _NAMED:
            yield from _schema_problems(definition, name, _NAMED)
        else:
            yield f"{name} can't be of type {definition['type']!r}"


def _primary_problems(definition: Node) -> Iterator[str]:
    if definition["type"] == "record":
        key = definition.get("key")
        if not isinstance(key, str) or not _RECORD_KEY_TYPE.fullmatch(key):
            yield f"main has the record key type {key!r}"
        yield from _schema_problems(definition.get("record"), "main.record", frozenset({"object"}))
        return
    for part in ("input", "output", "message"):
        body = definition.get(part)
        if isinstance(body, dict) and "schema" in body:
            yield from _schema_problems(body["schema"], f"main.{part}", frozenset({"object", "ref", "union"}))
    if "parameters" in definition:
        yield from _schema_problems(definition["parameters"], "main.parameters", frozenset({"params"}))


def _schema_problems(schema: object, where: str, allowed: frozenset[str], nesting: int = 0) -> Iterator[str]:
    if nesting > _MAX_NESTING:
        yield f"{where[:100]} is nested too deeply"
        return
    if not isinstance(schema, dict):
        yield f"{where} is not an object"
        return
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in allowed:
        yield f"{where} can't be of type {kind!r}"
        return
    for limit in _LIMITS.get(kind, ()):
        if limit in schema and (type(schema[limit]) is not int or schema[limit] < 0):
            yield f"{where} has a {limit} that is not a whole number"
    if kind in _PYTHON_TYPE:
        yield from _value_problems(schema, where, _PYTHON_TYPE[kind])
    if kind == "string" and "format" in schema and schema["format"] not in tuple(FORMATS):
        yield f"{where} has the unknown format {schema['format']!r}"
    if kind == "blob" and not _is_list_of(schema.get("accept", []), str):
        yield f"{where} has an accept that is not a list of MIME types"
    if kind == "ref" and not _is_reference(schema.get("ref")):
        yield f"{where} has the ref {schema.get('ref')!r}"
    if kind == "union":
        references = schema.get("refs")
        if not isinstance(references, list) or not all(map(_is_reference, references)):
            yield f"{where} has refs that are not a list of references"
        if not isinstance(schema.get("closed", False), bool):
            yield f"{where} has a closed that is neither true nor false"
    if kind == "array":
        yield from _schema_problems(schema.get("items"), f"{where}[]", _FIELD, nesting + 1)
    if kind in ("object", "params"):
        yield from _object_problems(schema, where, nesting)


def _value_problems(schema: Node, where: str, wanted: type) -> Iterator[str]:
    """Constants, enumerations and ranges must hold values of the field's own type."""
    for key in ("const", "minimum", "maximum") if wanted is int else ("const",):
        if key in schema and type(schema[key]) is not wanted:
            yield f"{where} has a {key} of the wrong type"
    for key in ("enum", "knownValues"):
        if not _is_list_of(schema.get(key, []), wanted):
            yield f"{where} has an {key} that is not a list of its own type"


def _object_problems(schema: Node, where: str, nesting: int) -> Iterator[str]:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield f"{where} has properties that are not an object"
        return
    for key in ("required", "nullable"):
        names = schema.get(key, [])
        if not _is_list_of(names, str):
            yield f"{where} has a {key} that is not a list of names"
        elif missing := [name for name in names if name not in properties]:
            yield f"{where} has the {key} property {missing[0]!r}, which it does not define"
    for name, property_schema in properties.items():
        yield from _schema_problems(property_schema, f"{where}.{name}", _FIELD, nesting + 1)


def _is_list_of(value: object, wanted: type) -> bool:
    return isinstance(value, list) and all(type(item) is wanted for item in value)


def _is_reference(value: object) -> bool:
    if not isinstance(value, str):
        return False
    nsid, hash_sign, name = value.partition("#")
    if hash_sign and not _DEFINITION_NAME.fullmatch(name):
        return False
    return is_nsid(nsid) if nsid else bool(hash_sign)
