"""The columns of tables of schema `bsky`, as the page of their asset shows them."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from appview_pipeline.store.columns import tables


def column_schema(shown: Sequence[str]) -> dg.TableSchema:
    """The columns of tables of schema `bsky`: those of the first by name, those of the others by `table.column`."""
    declared = tables()
    columns: list[dg.TableColumn] = []
    for table in shown:
        prefix = "" if table == shown[0] else f"{table}."
        for column in declared[f"bsky.{table}"]:
            note = " Not in the reference's schema." if column.ours else ""
            # Dagster shows Markdown, in which <DID> would be an HTML tag.
            description = f"{column.description}{note}".replace("<", r"\<") if column.description else None
            columns.append(
                dg.TableColumn(
                    name=f"{prefix}{column.name}",
                    type=column.type,
                    description=description,
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                )
            )
    return dg.TableSchema(columns=columns)
