"""`app.bsky.labeler.service`: an account labels, by the record `self` alone. Effects: sql/apply/labeler.sql.

A labeler becomes one row of `stage_labeler`, and rows of `stage_label_definition` for what its labels mean.
"""

from __future__ import annotations

from typing import Any

import orjson

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.protocol.label import MAX_VALUE
from appview_pipeline.store.effects import Stage, Step

STAGE_LABELER = Stage("stage_labeler", ("uri", "cid", "creator", "created_at", "indexed_at"))
STAGE_DEFINITION = Stage(
    "stage_label_definition",
    ("uri", "src", "val", "position", "severity", "blurs", "default_setting", "adult_only", "locales", "indexed_at"),
)

MAX_DEFINITIONS = 1_000
"""Values of one labeler that are stored; the lexicon has no limit. sql/schema/0024_labels.sql has the same."""

_DEFAULT_SETTING = "warn"
"""The lexicon's `default`."""


def stage(write: RecordWrite, rows: Rows) -> None:
    if write.rkey != "self":
        return
    rows["stage_labeler"].append((write.uri, write.cid, write.did, created_at(write.record), write.indexed_at))
    policies = write.record["policies"]
    defined: dict[str, dict[str, Any] | None] = {}
    for definition in policies.get("labelValueDefinitions") or ():
        # Of several definitions of one value readers take the first.
        defined.setdefault(definition["identifier"], definition)
    for value in policies["labelValues"]:
        defined.setdefault(value, None)
    # No label has an empty value, or a longer one.
    values = [value for value in defined if 0 < len(value.encode()) <= MAX_VALUE]
    for position, value in enumerate(values[:MAX_DEFINITIONS]):
        rows["stage_label_definition"].append(
            (write.uri, write.did, value, position, *_meaning(defined[value]), write.indexed_at)
        )


def _meaning(definition: dict[str, Any] | None) -> tuple[str | None, str | None, str | None, bool, str]:
    """Severity, blurs, default setting, adult only and locales, whatever texts these are; nothing where the labeler
    names the value alone."""
    if definition is None:
        return None, None, None, False, "[]"
    locales = [{key: strings[key] for key in ("lang", "name", "description")} for strings in definition["locales"]]
    return (
        definition["severity"],
        definition["blurs"],
        definition.get("defaultSetting") or _DEFAULT_SETTING,
        definition.get("adultOnly") is True,
        orjson.dumps(locales).decode(),
    )


COLLECTION = Collection(
    "app.bsky.labeler.service",
    name="labeler",
    table="labeler",
    stages=(STAGE_LABELER, STAGE_DEFINITION),
    stage=stage,
    follows=(Step("add_definitions"),),
    account_rows=None,
)
