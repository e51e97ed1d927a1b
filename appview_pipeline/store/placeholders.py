"""Placeholders of SQL files: what collections declare stands in statements that are about several of them.

The placeholders that any file of `sql/` may have:

| placeholder | stands for |
|---|---|
| `{nsid.NAME}` | the NSID of the collection of this name (of its module), without quotes |
| `{decides_on_posts}` | the collections that posts are evaluated by: a list for IN, as all that follow |
| `{collections}` | the collections with tables |
| `{misses}` | records that staged ones show: (uri, kind, missing), `Effect.misses` |
| `{timed}` | the collections of whose past states the time is kept |
| `{notified_once}` | the collections whose edits don't notify again |
| `{notified_again}` | those whose edits do |
| `{reasons_once}` | reasons of notifications of `{notified_once}` |
| `{reasons_evaluated}` | reasons of the collections that are evaluated |
| `{reasons_that_stay}` | reasons of notifications that stay when their record goes |
| `{time_of_row}` | WHEN branches by collection: the time of the row of the URI `s.uri`, of `{timed}` |
| `{timed_stages}` | the staged (uri, rev, created_at) of `{timed}` |
| `{staged_relationships_once}` | the staged (uri, rev, creator, relationship) of `{notified_once}` |
| `{staged_relationships_of_gates}` | those of the collections whose relationships rules of thread gates ask about |
| `{notified_by_state}` | whom a state `h` of `{notified_once}` notifies: (did, reason, reason_subject) |
| `{rows_of_post}` | records of a post `m` that notify its author: (uri, cid, creator, reason, sort_at) |
| `{subjects_TABLE}` | the keys of a table of counters whose counters the staged records move |
| `{kept_COLUMN}` | WHEN branches by collection: what `pipeline.version` keeps of `n`, whose body is `b.body` |

In statements for each collection with a natural key (duplicates.sql) stand also `{table}`, `{stage}`, `{collection}`,
`{key_1}`, `{key_2}` (columns of the table) and `{stage_key_1}`, `{stage_key_2}` (columns of the staging table).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from appview_pipeline.store.effects import Effect, Effects
from appview_pipeline.store.sql import named, sections

KEPT_COLUMNS = ("root", "parent", "mentions", "relationship", "record")
"""Columns of `pipeline.version` that collections may have kept (`History.columns`)."""

COUNTERS = ("post_agg", "profile_agg")
"""Tables of counters (`Effect.counters`)."""


@cache
def filled(effects: Effects, file: str) -> Mapping[str, str]:
    """The statements of a file by name, with what collections declare filled in: the same texts for every batch."""
    return _fill(file, _placeholders(effects), f"{Path(file).stem}.{{}}")


@cache
def filled_for(effects: Effects, effect: Effect, file: str) -> Mapping[str, str]:
    """The statements of a file that is about one collection at a time, for a collection with a natural key."""
    assert effect.natural_key is not None
    own = {
        "{table}": f'"{effect.table}"',
        "{stage}": effect.stages[0].table,
        "{key_1}": f'"{effect.natural_key.columns[0]}"',
        "{key_2}": f'"{effect.natural_key.columns[1]}"',
        "{stage_key_1}": effect.natural_key.stage_columns[0],
        "{stage_key_2}": effect.natural_key.stage_columns[1],
        "{collection}": f"'{effect.nsid}'",
    }
    return _fill(file, {**_placeholders(effects), **own}, f"{Path(file).stem}.{{}} of {effect.name}")


def fill_placeholders(statement: str, texts: Mapping[str, str]) -> str:
    """A statement with its {placeholders}, which stand for SQL of our own, filled in."""
    for placeholder, text in texts.items():
        statement = statement.replace(placeholder, text)
    return statement


def quoted_list(texts: Iterable[str]) -> str:
    """Texts of our own as a list for IN, which is never empty."""
    return ", ".join(f"'{text}'" for text in texts) or "NULL"


def _fill(file: str, texts: Mapping[str, str], name: str) -> Mapping[str, str]:
    return {key: named(fill_placeholders(text, texts), name.format(key)) for key, text in sections(file).items()}


def _union(section: str, effects: Iterable[Effect]) -> str:
    """A section of the collections' SQL files, of all of them."""
    return "\nUNION ALL\n".join(sections(f"apply/{effect.name}.sql")[section] for effect in effects)


@cache
def _placeholders(effects: Effects) -> Mapping[str, str]:
    declared = effects.declared
    timed = [effect for effect in declared if effect.history.time_column is not None]
    notifying = [(effect, effect.notifies) for effect in declared if effect.notifies is not None]
    texts = {
        "{decides_on_posts}": quoted_list(effect.nsid for effect in declared if effect.decides_on_posts),
        "{timed}": quoted_list(effect.nsid for effect in timed),
        "{notified_once}": quoted_list(effect.nsid for effect, it in notifying if it.once),
        "{notified_again}": quoted_list(effect.nsid for effect, it in notifying if not it.once and not it.stays),
        "{reasons_once}": quoted_list(reason for _, it in notifying if it.once for reason in it.reasons),
        "{reasons_evaluated}": quoted_list(
            reason for effect, it in notifying if effect.is_evaluated for reason in it.reasons
        ),
        "{reasons_that_stay}": quoted_list(effects.reasons_that_stay),
        "{time_of_row}": "\n    ".join(
            f"WHEN '{effect.nsid}' THEN "
            f'(SELECT "{effect.history.time_column}" FROM bsky."{effect.table}" WHERE uri = s.uri)'
            for effect in timed
        ),
        "{timed_stages}": "\n  UNION ALL\n  ".join(
            f"SELECT uri, rev, created_at FROM {effect.stages[0].table}" for effect in timed
        ),
    }
    once = [effect for effect, it in notifying if it.once]
    gates = [effect for effect in declared if effect.decides_on_posts and "relationship" in effect.history.columns]
    texts["{staged_relationships_once}"] = _union("staged_relationship", once)
    texts["{staged_relationships_of_gates}"] = _union("staged_relationship", gates)
    texts["{notified_by_state}"] = _union("notified_by_state", once)
    texts["{misses}"] = _union("misses", (effect for effect in declared if effect.misses))
    texts["{rows_of_post}"] = _union("rows_of_post", (effect for effect, it in notifying if it.of_posts))
    for table in COUNTERS:
        counting = [effect for effect in declared if table in effect.counters]
        texts[f"{{subjects_{table}}}"] = _union(f"subjects_{table}", counting)
    for column in KEPT_COLUMNS:
        branches = [
            f"WHEN '{effect.nsid}' THEN {sections(f'apply/{effect.name}.sql')[f'kept_{column}']}"
            for effect in declared
            if column in effect.history.columns
        ]
        if column == "record":
            branches += [f"WHEN '{effect.nsid}' THEN b.body" for effect in declared if effect.history.body]
        texts[f"{{kept_{column}}}"] = "\n    ".join(branches)
    # Last: the texts above may name collections, too.
    texts["{collections}"] = quoted_list(effect.nsid for effect in effects.in_order)
    return {**texts, **{f"{{nsid.{effect.name}}}": effect.nsid for effect in declared if effect.name}}
