"""What labels mean: read from the records of labelers, and set here (docs/labels.md).

A labeler defines its own values in its record (`policies.labelValueDefinitions`), and the index keeps them. What the
operator sets goes before that, for whatever labeler.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from appview_pipeline.errors import OperatorError
from appview_pipeline.identity.show import known_did
from appview_pipeline.labels.service import labeler_did
from appview_pipeline.protocol.graphemes import count
from appview_pipeline.protocol.label import MAX_VALUE
from appview_pipeline.protocol.syntax import is_language
from appview_pipeline.settings import Settings
from appview_pipeline.store import label_definitions
from appview_pipeline.store.database import Database
from appview_pipeline.store.label_definitions import LabelDefinition, Strings
from appview_pipeline.store.label_query import findable

SEVERITIES = ("inform", "alert", "none")
BLURS = ("content", "media", "none")
DEFAULT_SETTINGS = ("ignore", "warn", "hide")
"""The words that readers know, of the lexicon `com.atproto.label.defs#labelValueDefinition`."""

MAX_NAME = 64
MAX_DESCRIPTION = 10_000
"""Graphemes, by the lexicon."""


def list_definitions(
    database: Database, *, sources: Collection[str] = (), values: Collection[str] = ()
) -> list[LabelDefinition]:
    """The definitions of sources (DIDs, or handles that are known) and values (none: of all), by source and value.

    What was set here goes before what the labeler's record says. Raises OperatorError.
    """
    dids = [known_did(database, source) for source in sources]
    with database.connect("reader") as connection:
        return label_definitions.read_definitions(connection, dids, values)


def set_definition(
    settings: Settings,
    database: Database,
    val: str,
    *,
    locales: Sequence[Strings],
    severity: str = "inform",
    blurs: str = "none",
    default_setting: str = "warn",
    adult_only: bool = False,
    source: str | None = None,
) -> LabelDefinition:
    """Says what a value means, in the place of all that was set here of it before.

    `source`: the labeler (a DID, or a handle that is known) whose labels it is said of; None: our own,
    APPVIEW_LABELER_DID. Raises OperatorError.
    """
    src = _source(settings, database, source)
    for word, known, name in (
        (severity, SEVERITIES, "severity"),
        (blurs, BLURS, "blurs"),
        (default_setting, DEFAULT_SETTINGS, "default"),
    ):
        if word not in known:
            raise OperatorError(f"{word[:100]!r} is no {name} that readers know: {', '.join(known)}.")
    if not 0 < len(val.encode(errors="replace")) <= MAX_VALUE or findable(val) != val:
        raise OperatorError(f"{val[:200]!r} is no value of a label: 1 to {MAX_VALUE} bytes.")
    if not locales:
        raise OperatorError("A definition needs a name and a description in one language at least.")
    for strings in locales:
        _check(strings)
    if len({strings.lang.lower() for strings in locales}) < len(locales):
        raise OperatorError("There are two names in the same language: give one of each.")
    definition = LabelDefinition(
        src=src,
        val=val,
        severity=severity,
        blurs=blurs,
        default_setting=default_setting,
        adult_only=adult_only,
        locales=tuple(locales),
        is_local=True,
    )
    with database.connect("writer") as connection:
        label_definitions.set_definition(connection, definition)
    return definition


def remove_definition(settings: Settings, database: Database, val: str, *, source: str | None = None) -> bool:
    """Removes what was set here of a value, so that what the labeler's record says counts again. Returns whether there
    was anything. Raises OperatorError."""
    src = _source(settings, database, source)
    with database.connect("writer") as connection:
        return label_definitions.remove_definition(connection, src, val)


def strings_in(definition: LabelDefinition, languages: Sequence[str]) -> Strings | None:
    """The strings of a definition for a reader of `languages`, the preferred first (BCP 47 lookup, RFC 4647 3.4): of
    "pt-BR" also "pt"; then of the same language elsewhere, then English, then the first. None: it has none."""
    by_tag = {strings.lang.lower(): strings for strings in reversed(definition.locales)}
    by_language = {tag.partition("-")[0]: strings for tag, strings in reversed(by_tag.items())}
    for wanted in [*(language.lower() for language in languages), "en"]:
        tag = wanted
        while tag:
            if (found := by_tag.get(tag)) is not None:
                return found
            tag = tag.rpartition("-")[0]
        if (found := by_language.get(wanted.partition("-")[0])) is not None:
            return found
    return definition.locales[0] if definition.locales else None


def definition_line(definition: LabelDefinition, languages: Sequence[str] = ()) -> str:
    """A definition for people, in the first of `languages` that it has."""
    what = f"{definition.src}  {definition.val}"
    if definition.severity is None:
        return f"{what}  not defined by the labeler"
    adult = ", adults only" if definition.adult_only else ""
    words = f"severity {definition.severity}, blurs {definition.blurs}, default {definition.default_setting}{adult}"
    strings = strings_in(definition, languages)
    shown = "" if strings is None else f"\n    {strings.name} ({strings.lang}): {' '.join(strings.description.split())}"
    return f"{what}  {words}{'  set here' if definition.is_local else ''}{shown}"


def _source(settings: Settings, database: Database, source: str | None) -> str:
    return labeler_did(settings) if source is None else known_did(database, source)


def _check(strings: Strings) -> None:
    """Raises OperatorError where strings are not what readers can show."""
    if not is_language(strings.lang):
        raise OperatorError(f"{strings.lang[:100]!r} is no language: give a tag such as en or pt-BR.")
    for text, limit, name in ((strings.name, MAX_NAME, "name"), (strings.description, MAX_DESCRIPTION, "description")):
        if findable(text) != text:
            raise OperatorError(f"The {name} in {strings.lang} is not text.")
        if count(text, limit + 1) > limit:
            raise OperatorError(f"The {name} in {strings.lang} is longer than {limit:,} characters.")
    if not strings.name:
        raise OperatorError(f"The name in {strings.lang} is empty.")
