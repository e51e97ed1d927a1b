"""The tables of derived rows that a rerun compares, and how their rows without a record are found."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from appview_pipeline.store.effects import Effects
from appview_pipeline.store.placeholders import fill_placeholders, quoted_list

PRIVATE_REASONS = ("subscribed-post", "contact-match")
"""Reasons of notifications that follow from private state when they were made, and not from records."""

POST_TABLES = (
    ("post", "add"),
    ("feed_item", "feed"),
    ("op_thread_reply", "op_thread"),
    ("post_embed_image", "add_embeds"),
    ("post_embed_gallery_image", "add_embeds"),
    ("post_embed_external", "add_embeds"),
    ("post_embed_video", "add_embeds"),
    ("post_embed_record", "add_embeds"),
    ("quote", "add_quotes"),
)
"""The tables of a post's rows, and the statement of sql/apply/post.sql that adds what is missing in each."""


class DerivedRows(NamedTuple):
    """Where a table's rows that have no record can be found: by account, or by URI where `creator` is None."""

    table: str
    collections: tuple[str, ...]
    uri: str = "uri"
    creator: str | None = "creator"
    order: str = '"sortAt" DESC'
    key: str = "uri"
    condition: str = "true"


@cache
def derived_rows(effects: Effects) -> tuple[DerivedRows, ...]:
    """How rows without a record are found, for every table that rows are derived for."""
    posts = tuple(effects.evaluated)
    own = [
        DerivedRows(effect.table, (effect.nsid,), creator=None)
        if effect.account_rows is None
        else DerivedRows(
            effect.table, (effect.nsid,), creator=effect.account_rows.column, order=effect.account_rows.order
        )
        for effect in effects.in_order
    ]
    embeds = [
        DerivedRows(table, posts, uri="postUri", creator=None, key="postUri")
        for table, _ in POST_TABLES
        if table.startswith("post_embed_")
    ]
    return (
        *own,
        DerivedRows("feed_item", effects.derive(("feed_item",)), creator="originatorDid"),
        DerivedRows(
            "duplicate_record",
            tuple(effect.nsid for effect in effects.in_order if effect.natural_key is not None),
            creator=None,
        ),
        DerivedRows("quote", posts, creator=None),
        *embeds,
        DerivedRows("op_thread_reply", posts, creator=None, key="rootUri", condition='l."deletedAt" IS NULL'),
        DerivedRows(
            "notification",
            effects.derive(("notification",)),
            uri="recordUri",
            creator=None,
            key="recordUri",
            condition=f"l.reason NOT IN ({quoted_list((*effects.reasons_that_stay, *PRIVATE_REASONS))})",
        ),
    )


def for_table(statement: str, rows: DerivedRows) -> str:
    """A statement of sql/repair/ with the placeholders of a table's rows filled in."""
    names = {
        "{table}": f'"{rows.table}"',
        "{uri}": f'"{rows.uri}"',
        "{creator}": f'"{rows.creator}"',
        "{order}": f"l.{rows.order}",
        "{key}": f'"{rows.key}"',
        "{condition}": rows.condition,
    }
    return fill_placeholders(statement, names)
