"""Why no asset that the stream writes is ever shown as "Unsynced".

Dagster calls an asset unsynced when an asset above it was materialized later, and here the firehose is, every few
seconds. But one transaction writes a record and all that follows from it: the tables are in sync at any time. So every
materialization carries the same data version, and names it as the version of all that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

IN_SYNC = dg.DataVersion("in_sync")


def in_sync_tags(upstream: Iterable[str] = ()) -> dict[str, str]:
    """The tags of a materialization without a run; `upstream` are the assets that it was made from.

    A run's materializations need only `data_version=IN_SYNC`: Dagster writes the other tags.
    """
    tags = {DATA_VERSION_TAG: IN_SYNC.value, CODE_VERSION_TAG: IN_SYNC.value}
    for key in map(dg.AssetKey, upstream):
        tags[get_input_data_version_tag(key)] = IN_SYNC.value
        # Which materialization it was made from does not matter: all have the same version.
        tags[get_input_event_pointer_tag(key)] = NULL_EVENT_POINTER
    return tags
