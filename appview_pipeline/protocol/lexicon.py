"""Validation of records against Lexicon documents, as strict as the reference AppView's strict mode.

Specifications: https://atproto.com/specs/lexicon, https://atproto.com/specs/data-model. Where those leave room, the
reference's `@atproto/lex-schema` in its strict mode decides: integers are JavaScript's safe ones, a blob has exactly
its four fields and a `raw` CID, an object may carry a `$type` only if it is its own, `unknown` is an object of the
data model, open unions let through what they don't know, fields that a schema doesn't name are never looked at.

Records are most of what the firehose carries, so a schema is not interpreted: `Lexicons` writes one Python function
per definition and compiles it (`exec`), which costs a like 1 to 2 us where a tree of closures costs three times that.
Nothing of a Lexicon document gets into that source but as the `repr` of a string, an integer or a boolean: names of
functions and variables are numbered by us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from appview_pipeline.protocol import graphemes
from appview_pipeline.protocol.cbor import Link
from appview_pipeline.protocol.lexicon_documents import Node, absolute, problem, type_name
from appview_pipeline.protocol.lexicon_formats import FORMATS, USUAL

# None: the record is valid. Otherwise why it is not, in words that begin with the path of the offending field.
RecordValidator = Callable[[Any], "str | None"]

# Definitions that refer to themselves are followed to this depth; no record of a known type comes near it.
MAX_DEPTH = 128

_SAFE_INTEGER = 2**53 - 1
_RAW_SHA256 = b"\x01\x55\x12\x20"
_BLOB_FIELDS = frozenset({"$type", "ref", "mimeType", "size"})
_SCALAR = frozenset({"boolean", "integer", "string", "bytes", "cid-link", "blob", "token", "unknown"})
_HOLDABLE = _SCALAR | {"array", "object", "record"}


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
        self._namespace: dict[str, Any] = dict(_RUNTIME)
        self._functions: dict[tuple[str, bool], str] = {}
        self._tables: list[tuple[dict[str, Any], dict[str, str]]] = []
        self._recursive: dict[str, bool] = {}
        self.record_types = frozenset(
            type_name(name) for name, definition in definitions.items() if definition["type"] == "record"
        )

    def record_validator(self, nsid: str) -> RecordValidator:
        """The validator of records of the type `nsid`; compiled when first asked for, milliseconds.

        It takes a record as decoded from DAG-CBOR: dict, list, str, int, bool, None, bytes, and `Link` for CIDs. It
        never raises on such values, nor on others (a float in an `unknown` field is a reason like any other). Key and
        size of the record are not its concern.

        Raises `KeyError` when no document defines a record of that type, and `LexiconError` when it refers to a
        definition that is missing.
        """
        if nsid not in self.record_types:
            raise KeyError(nsid)
        # First, because half a compilation would leave functions behind that call what is not there.
        self._check_reachable(f"{nsid}#main")
        function = self._function(f"{nsid}#main", is_root=True)
        for table, functions in self._tables:
            table.update({kind: self._namespace[name] for kind, name in functions.items()})
        self._tables.clear()
        validator: RecordValidator = self._namespace[function]
        return validator

    def _definition(self, name: str) -> Node:
        try:
            return self._definitions[name]
        except KeyError:
            raise LexiconError(f"no Lexicon document defines {type_name(name)}, which another refers to") from None

    def _function(self, name: str, is_root: bool = False) -> str:
        """The name of the compiled function of a definition, with all that it calls compiled too."""
        key = (name, is_root)
        if key not in self._functions:
            # Known before it is written, so that definitions may refer to each other in circles.
            function = self._functions[key] = f"check_{len(self._functions)}"
            source = _Writer(self, name, is_root).write(function)
            # Only our own templates and reprs of literals are in there, see the module's docstring.
            exec(compile(source, f"<lexicon {type_name(name)}>", "exec"), self._namespace)  # noqa: S102
        return self._functions[key]

    def _union_table(self, members: Mapping[str, str]) -> str:
        """The name of a function from `$type` to the function that checks it, or None.

        `members` maps each `$type` to the full name of its definition. The table is filled when all functions exist.
        """
        table: dict[str, Any] = {}
        name = f"member_{len(self._namespace)}"
        self._namespace[name] = table.get
        self._tables.append((table, {kind: self._function(member) for kind, member in members.items()}))
        return name

    def _reachable(self, name: str) -> set[str]:
        """The definitions that a definition refers to, directly or not; itself if it can be met again inside itself."""
        reached: set[str] = set()
        frontier = _references(self._definition(name), name)
        while frontier:
            reference = frontier.pop()
            if reference not in reached:
                reached.add(reference)
                frontier |= _references(self._definition(reference), reference)
        return reached

    def _check_reachable(self, name: str) -> None:
        for reference in self._reachable(name):
            kind = self._definition(reference)["type"]
            if kind not in _HOLDABLE:
                raise LexiconError(
                    f"{type_name(name)} refers to {type_name(reference)}, a {kind}, which no record can hold"
                )

    def _is_recursive(self, name: str) -> bool:
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


class _Writer:
    """Writes the function of one definition: a value and its depth in, a reason or None out."""

    def __init__(self, lexicons: Lexicons, name: str, is_root: bool) -> None:
        self._lexicons = lexicons
        self._name = name
        self._nsid = name.partition("#")[0]
        self._is_root = is_root
        self._is_recursive = lexicons._is_recursive(name)
        self._lines: list[str] = []
        self._variables = 0

    def write(self, function: str) -> str:
        definition = self._lexicons._definition(self._name)
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
                low, high = schema.get("minimum", -_SAFE_INTEGER), schema.get("maximum", _SAFE_INTEGER)
                low, high = max(low, -_SAFE_INTEGER), min(high, _SAFE_INTEGER)
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
            condition = f"not {_function_name('is', format_)}({value})"
            if format_ in USUAL:
                condition = f"{_function_name('usual', format_)}({value}) is None and {condition}"
            self._fail_if(condition, path, f"is not of the format {format_}", indent)
        if "knownValues" in schema:
            # Dropped from what is stored, it would make a known value of another one.
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
        definition = self._lexicons._definition(name)
        if definition["type"] == "token":
            own = type_name(name)
            self._fail_if(f"{value} != {own!r}", path, f"is not {own}", indent)
        elif definition["type"] in _SCALAR:
            self._scalar(definition["type"], definition, value, path, indent)
        else:
            self._pass_on(self._call(self._lexicons._function(name), value), path, indent)

    def _union(self, schema: Node, value: str, path: _Path, indent: int) -> None:
        names = [absolute(reference, self._nsid) for reference in schema["refs"]]
        # Only objects and records carry a $type to be known by.
        members = {
            type_name(name): name for name in names if self._lexicons._definition(name)["type"] in ("object", "record")
        }
        table = self._lexicons._union_table(members)
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


# --- what the generated functions call -------------------------------------------------------------------------------


def _utf8_length(text: str) -> int:
    """Length in UTF-8; a lone surrogate, which no decoder of ours lets through, counts as the three bytes it fills."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _blob_reason(value: Any) -> str | None:
    """Why a value is no blob; None if it is one (a legacy blob, of `cid` and `mimeType`, is none)."""
    if type(value) is not dict or value.get("$type") != "blob":
        return " is not a blob"
    if value.keys() != _BLOB_FIELDS:
        return " is a blob with fields missing or too many"
    mime_type, size, ref = value["mimeType"], value["size"], value["ref"]
    if type(mime_type) is not str or "/" not in mime_type or "\0" in mime_type:
        return ".mimeType is not a MIME type"
    if type(size) is not int or not 0 <= size <= _SAFE_INTEGER:
        return ".size is not a size"
    if type(ref) is not Link or len(ref) != 36 or not ref.startswith(_RAW_SHA256):
        return ".ref is not a CID link to raw bytes"
    return None


def _unknown_reason(value: Any) -> str | None:
    """Why a value is no object of the data model; None if it is one."""
    if type(value) is not dict:
        return " is not an object"
    # A stack of our own: depth is bounded by the record's size alone.
    unseen: list[Any] = [value]
    while unseen:
        item = unseen.pop()
        kind = type(item)
        if kind is dict:
            unseen.extend(item.values())
        elif kind is list:
            unseen.extend(item)
        elif kind is int:
            if not -_SAFE_INTEGER <= item <= _SAFE_INTEGER:
                return " holds an integer of more than 53 bits"
        elif kind not in _OTHER_DATA:
            return f" holds a {kind.__name__}, which the data model does not have"
    return None


_OTHER_DATA = frozenset({str, bool, type(None), bytes, Link})


def _function_name(prefix: str, format_: str) -> str:
    return f"{prefix}_{format_.replace('-', '_')}"


_RUNTIME: dict[str, Any] = {
    "Link": Link,
    "utf8_length": _utf8_length,
    "graphemes": graphemes.count,
    "blob": _blob_reason,
    "unknown": _unknown_reason,
    **{_function_name("is", format_): check for format_, check in FORMATS.items()},
    **{_function_name("usual", format_): check for format_, check in USUAL.items()},
}
