"""The tables: one asset for each table group."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.tables.assets import index_tables

defs = dg.Definitions(assets=[index_tables])
