"""What labels mean, as it is stored (sql/labels/definition.sql). All functions are part of the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from psycopg2.extensions import connection as Connection

from appview_pipeline.store.label_query import findable
from appview_pipeline.store.sql import sections

_FILE = "labels/definition.sql"


class Strings(NamedTuple):
    """Name and description of a label in one language, a BCP 47 tag."""

    lang: str
    name: str
    description: str


@dataclass(frozen=True)
class LabelDefinition:
    """What a value means where `src` gives it as a label: a row of `pipeline.label_definition`.

    `severity`, `blurs` and `default_setting`: as in the lexicon `com.atproto.label.defs#labelValueDefinition`; None:
    the labeler uses the value and does not define it, so it means what it means to all. `is_local`: set here.
    """

    src: str
    val: str
    severity: str | None
    blurs: str | None
    default_setting: str | None
    adult_only: bool
    locales: tuple[Strings, ...]
    is_local: bool
    updated_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """The definition in the lexicon's form, with its source."""
        found: dict[str, Any] = {"src": self.src, "isLocal": self.is_local, "identifier": self.val}
        if self.severity is not None:
            found |= {"severity": self.severity, "blurs": self.blurs, "defaultSetting": self.default_setting}
            found |= {"adultOnly": self.adult_only, "locales": [strings._asdict() for strings in self.locales]}
        return found


def read_definitions(
    connection: Connection, sources: Collection[str] = (), values: Collection[str] = ()
) -> list[LabelDefinition]:
    """The definitions of sources and values (none: of all), by source and value: what was set here, else what the
    labeler's record says."""
    asked = {"sources": sorted(set(map(findable, sources))) or None, "vals": sorted(set(map(findable, values))) or None}
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["list"], asked)
        return [
            LabelDefinition(
                src=src,
                val=val,
                severity=severity,
                blurs=blurs,
                default_setting=default_setting,
                adult_only=adult_only,
                locales=_strings(locales),
                is_local=is_local,
                updated_at=updated_at,
            )
            for src, val, severity, blurs, default_setting, adult_only, locales, is_local, updated_at in cursor
        ]


def set_definition(connection: Connection, definition: LabelDefinition) -> None:
    """Stores a definition that is set here, in the place of one that was."""
    with connection.cursor() as cursor:
        cursor.execute(
            sections(_FILE)["set"],
            {
                "src": definition.src,
                "val": definition.val,
                "severity": definition.severity,
                "blurs": definition.blurs,
                "default_setting": definition.default_setting,
                "adult_only": definition.adult_only,
                "locales": orjson.dumps([strings._asdict() for strings in definition.locales]).decode(),
            },
        )


def remove_definition(connection: Connection, src: str, val: str) -> bool:
    """Removes what was set here of a value. Returns whether there was anything."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["remove"], {"src": src, "val": findable(val)})
        return cursor.rowcount > 0


def _strings(locales: Sequence[dict[str, Any]]) -> tuple[Strings, ...]:
    """The strings of a definition. (Records are validated; what somebody else has written into the table is not.)"""
    return tuple(
        Strings(*(str(strings.get(field) or "") for field in Strings._fields))
        for strings in locales
        if isinstance(strings, dict)
    )
