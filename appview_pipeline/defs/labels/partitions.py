"""The partitions of the asset `labels`: one for each labeler, by its DID.

Dagster keeps them in its own storage. The label sensor adds those that the database knows, and removes those that it
does not know any more, such as labelers whose account was removed. A partition that returns has its history again.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

NAME = "labelers"
LABELERS = dg.DynamicPartitionsDefinition(name=NAME)


def keep_partitions(instance: dg.DagsterInstance, dids: Iterable[str]) -> None:
    """Makes these labelers the partitions."""
    wanted, present = set(dids), set(instance.get_dynamic_partitions(NAME))
    if added := sorted(wanted - present):
        instance.add_dynamic_partitions(NAME, added)
    for did in sorted(present - wanted):
        instance.delete_dynamic_partition(NAME, did)
