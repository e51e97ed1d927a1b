"""Writes the Python source of validators: one function for each definition of a Lexicon document.

Nothing of a document gets into that source but as the `repr` of a string, an integer or a boolean: names of functions
and variables are numbered by us.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from appview_pipeline.protocol.lexicon_documents import Node, absolute, type_name
from appview_pipeline.protocol.lexicon_formats import USUAL
from appview_pipeline.protocol.lexicon_runtime import SAFE_INTEGER, function_name

MAX_DEPTH = 128
"""Definitions that refer to themselves are followed to this depth; no record of a known type comes near it."""

SCALAR = frozenset({"boolean", "integer", "string", "bytes", "cid-link", "blob", "token", "unknown"})


class Definitions(Protocol):
    """What the writer of one function asks about the others. Names are full: `nsid#name`."""

    def definition(self, name: str) -> Node:
        """The definition of that name. Raises `LexiconError` where no document has it."""

    def function(self, name: str) -> str:
        """The name of the function that checks a definition."""

    def union_table(self, members: Mapping[str, str]) -> str:
        """The name of a function from `$type` to the function that checks it; `members`: `$type` to definition."""

    def is_recursive(self, name: str) -> bool:
        """Whether a definition can be met again inside itself."""


class _Path:
    """The path of a value as the pieces of a Python expression: fixed text and variables that hold indices.

    A root path starts at the record; any other begins with what a caller puts its own path in front of.
    """

    def __init__(self, is_root: bool, pieces: tuple[str, ...] = ("",)) -> None:
        self._is_root = is_root
        self._pieces = pieces  # text, variable, text, variable, ..., text

    def _append(self, text: str, *more: str) -> _Path:
        return _Path(self._is_root, (*self._pieces[:-1], self._pieces[-1] + text, *more))

    def key(self, name: str) -> _Path:
        return self._append(name if self._is_root and self._pieces == ("",) else f".{name}")

    def index(self, variable: str) -> _Path:
        return self._append("[", variable, "]")

    def before(self, message: str) -> str:
        """Python source of the path and a message."""
        if self._is_root and self._pieces == ("",):
            return repr(f"the record {message}")
        return self._append(f" {message}")._source()

    def before_reason(self) -> str:
        """Python source of the path and the variable `reason`, which begins with the rest of the path."""
        return "reason" if self._pieces == ("",) else f"{self._source()} + reason"

    def _source(self) -> str:
        return " + ".join(f"str({piece})" if i % 2 else repr(piece) for i, piece in enumerate(self._pieces))


class FunctionWriter:
    """Writes the function of one definition: a value and its depth in, a reason or None out."""

    def __init__(self, definitions: Definitions, name: str, is_root: bool) -> None:
        self._definitions = definitions
        self._name = name
        self._nsid = name.partition("#")[0]
        self._is_root = is_root
        self._is_recursive = definitions.is_recursive(name)
        self._lines: list[str] = []
        self._variables = 0

    def write(self, function: str) -> str:
        """The source of the function, which is to be named `function`."""
        definition = self._definitions.definition(self._name)
        path = _Path(self._is_root)
        self._line(0, f"def {function}(value, depth=0):")
        if self._is_recursive:
            self._fail_if(f"depth > {MAX_DEPTH}", path, "is nested too deeply", 1)
        schema = definition["record"] if definition["type"] == "record" else definition
        if schema["type"] == "object":
            own_type = type_name(self._name)
            self._object(schema, "value", path, 1, own_type, is_record=definition["type"] == "record")
        else:
            self._value(schema, "value", path, 1)
        self._line(1, "return None")
        return "\n".join(self._lines)

    def _line(self, indent: int, text: str) -> None:
        self._lines.append("    " * indent + text)

    def _fail_if(self, condition: str, path: _Path, message: str, indent: int) -> None:
        self._line(indent, f"if {condition}: return {path.before(message)}")

    def _pass_on(self, call: str, path: _Path, indent: int) -> None:
        """Returns the reason of another function, if it has one, with our path in front."""
        self._line(indent, f"reason = {call}")
        self._line(indent, f"if reason is not None: return {path.before_reason()}")

    def _variable(self, prefix: str) -> str:
        self._variables += 1
        return f"{prefix}_{self._variables}"

    def _value(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        match schema["type"]:
            case "object":
                self._object(schema, value, path, indent)
            case "array":
                self._array(schema, value, path, indent)
            case "ref":
                self._ref(schema, value, path, indent)
            case "union":
                self._union(schema, value, path, indent)
            case kind:
                self._scalar(kind, schema, value, path, indent)

    def _scalar(self, kind: str, schema: Node, value: str, path: _Path, indent: int) -> None:
        if "const" in schema or "enum" in schema:
            self._choice(kind, schema, value, path, indent)
            return
        match kind:
            case "boolean":
                self._fail_if(f"type({value}) is not bool", path, "is not true or false", indent)
            case "integer":
                low, high = schema.get("minimum", -SAFE_INTEGER), schema.get("maximum", SAFE_INTEGER)
                low, high = max(low, -SAFE_INTEGER), min(high, SAFE_INTEGER)
                wanted = "is not an integer"
                if "minimum" in schema or "maximum" in schema:
                    wanted += f" from {low} to {high}"
                self._fail_if(f"type({value}) is not int or not {low} <= {value} <= {high}", path, wanted, indent)
            case "string":
                self._string(schema, value, path, indent)
            case "bytes":
                self._fail_if(f"type({value}) is not bytes", path, "is not bytes", indent)
                self._length(schema, value, "bytes", path, indent)
            case "cid-link":
                self._fail_if(f"type({value}) is not Link", path, "is not a CID link", indent)
            case "blob":
                self._blob(schema, value, path, indent)
            case "unknown":
                self._pass_on(f"unknown({value})", path, indent)

    def _choice(self, kind: str, schema: Node, value: str, path: _Path, indent: int) -> None:
        """A constant or an enumeration; the reference asks for nothing else of such a field."""
        allowed = tuple(schema["enum"]) if "enum" in schema else (schema["const"],)
        if "const" in schema:
            allowed = (schema["const"],) if schema["const"] in allowed else ()
        # Exact types, for Python's True == 1.
        wanted = {"boolean": "bool", "integer": "int", "string": "str"}[kind]
        text = f"is not {' or '.join(map(repr, allowed))}" if allowed else "can have no value"
        self._fail_if(f"type({value}) is not {wanted} or {value} not in {allowed!r}", path, text, indent)

    def _string(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        self._fail_if(f"type({value}) is not str", path, "is not a string", indent)
        # The length in UTF-8 lies between one and four bytes for each of Python's characters, and there are never
        # more graphemes than characters: most texts are decided by len() alone.
        if (low := schema.get("minLength")) is not None:
            self._fail_if(
                f"len({value}) < {low} and utf8_length({value}) < {low}", path, f"is shorter than {low} bytes", indent
            )
        if (high := schema.get("maxLength")) is not None:
            self._fail_if(
                f"len({value}) > {high // 4} and utf8_length({value}) > {high}",
                path,
                f"is longer than {high} bytes",
                indent,
            )
        if (low := schema.get("minGraphemes")) is not None:
            self._fail_if(
                f"len({value}) < {low} or graphemes({value}, {low}) < {low}",
                path,
                f"is shorter than {low} graphemes",
                indent,
            )
        if (high := schema.get("maxGraphemes")) is not None:
            self._fail_if(
                f"len({value}) > {high} and graphemes({value}, {high + 1}) > {high}",
                path,
                f"is longer than {high} graphemes",
                indent,
            )
        if (format_ := schema.get("format")) is not None:
            condition = f"not {function_name('is', format_)}({value})"
            if format_ in USUAL:
                condition = f"{function_name('usual', format_)}({value}) is None and {condition}"
            self._fail_if(condition, path, f"is not of the format {format_}", indent)
        if "knownValues" in schema:
            # Without its U+0000, as it would be stored, another value could become a known one.
            self._fail_if(f"'\\0' in {value}", path, "holds U+0000", indent)

    def _length(self, schema: Node, value: str, unit: str, path: _Path, indent: int) -> None:
        if (low := schema.get("minLength")) is not None:
            self._fail_if(f"len({value}) < {low}", path, f"has fewer than {low} {unit}", indent)
        if (high := schema.get("maxLength")) is not None:
            self._fail_if(f"len({value}) > {high}", path, f"has more than {high} {unit}", indent)

    def _blob(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        self._pass_on(f"blob({value})", path, indent)
        accept = schema.get("accept")
        if accept is not None and "*/*" not in accept:
            prefixes = tuple(pattern[:-1] for pattern in accept if pattern.endswith("/*"))
            mime_type = f"{value}['mimeType']"
            condition = f"{mime_type} not in {tuple(accept)!r}"
            if prefixes:
                condition += f" and not {mime_type}.startswith({prefixes!r})"
            self._fail_if(condition, path.key("mimeType"), f"is not {' or '.join(accept)}", indent)
        if (high := schema.get("maxSize")) is not None:
            self._fail_if(f"{value}['size'] > {high}", path.key("size"), f"is over {high} bytes", indent)

    def _array(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        self._fail_if(f"type({value}) is not list", path, "is not an array", indent)
        self._length(schema, value, "items", path, indent)
        index, item = self._variable("index"), self._variable("item")
        self._line(indent, f"for {index}, {item} in enumerate({value}):")
        self._value(schema["items"], item, path.index(index), indent + 1)

    def _object(
        self,
        schema: Node,
        value: str,
        path: _Path,
        indent: int,
        own_type: str | None = None,
        is_record: bool = False,
    ) -> None:
        self._fail_if(f"type({value}) is not dict", path, "is not an object", indent)
        if own_type is not None:
            condition = f"{value}.get('$type') != {own_type!r}"
            if not is_record:
                condition = f"'$type' in {value} and {value}['$type'] != {own_type!r}"
            self._fail_if(condition, path.key("$type"), f"is not {own_type}", indent)
        required, nullable = schema.get("required", ()), schema.get("nullable", ())
        for name, property_schema in schema.get("properties", {}).items():
            inner = indent
            if name in required:
                self._fail_if(f"{name!r} not in {value}", path.key(name), "is missing", inner)
            else:
                self._line(inner, f"if {name!r} in {value}:")
                inner += 1
            field = self._variable("field")
            self._line(inner, f"{field} = {value}[{name!r}]")
            if name in nullable:
                self._line(inner, f"if {field} is not None:")
                inner += 1
            self._value(property_schema, field, path.key(name), inner)

    def _ref(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        name = absolute(schema["ref"], self._nsid)
        definition = self._definitions.definition(name)
        if definition["type"] == "token":
            own = type_name(name)
            self._fail_if(f"{value} != {own!r}", path, f"is not {own}", indent)
        elif definition["type"] in SCALAR:
            self._scalar(definition["type"], definition, value, path, indent)
        else:
            self._pass_on(self._call(self._definitions.function(name), value), path, indent)

    def _union(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        names = [absolute(reference, self._nsid) for reference in schema["refs"]]
        # Only objects and records have a `$type` that identifies them.
        members = {
            type_name(name): name
            for name in names
            if self._definitions.definition(name)["type"] in ("object", "record")
        }
        table = self._definitions.union_table(members)
        kind, known = self._variable("kind"), self._variable("known")
        self._fail_if(f"type({value}) is not dict", path, "is not an object", indent)
        self._line(indent, f"{kind} = {value}.get('$type')")
        self._fail_if(f"type({kind}) is not str", path.key("$type"), "is missing or not a string", indent)
        self._line(indent, f"{known} = {table}({kind})")
        self._line(indent, f"if {known} is not None:")
        self._pass_on(self._call(known, value), path, indent + 1)
        if schema.get("closed", False):
            self._line(indent, "else:")
            self._line(indent + 1, f"return {path.key('$type').before('is none of the types allowed here')}")
        else:
            self._line(indent, f"elif '\\0' in {kind}:")
            self._line(indent + 1, f"return {path.key('$type').before('holds U+0000')}")

    def _call(self, function: str, value: str) -> str:
        return f"{function}({value}, depth + 1)" if self._is_recursive else f"{function}({value})"
