"""All shards of a layout."""

from __future__ import annotations

from appview_pipeline.shards import Shard


def layout(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(count)]
