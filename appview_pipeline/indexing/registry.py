"""All collections of the index: every module of `collections/`, and what an operator adds."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appview_pipeline.indexing import collections
from appview_pipeline.indexing.collection import Collection, Rows
from appview_pipeline.store.effects import Effects


@dataclass(frozen=True, eq=False)
class Declarations:
    """The collections of an index by NSID, and the effects that they declare."""

    collections: Mapping[str, Collection]
    effects: Effects

    def empty_rows(self) -> Rows:
        """The staging tables of the collections, without rows."""
        return {table: [] for table in self.effects.columns}


def _declared() -> Declarations:
    found = {}
    for module_info in pkgutil.iter_modules(collections.__path__):
        collection = importlib.import_module(f"{collections.__name__}.{module_info.name}").COLLECTION
        assert isinstance(collection, Collection)
        found[collection.nsid] = collection
    return Declarations(found, Effects(found.values()))


DECLARED = _declared()
COLLECTIONS = DECLARED.collections
"""Collections by NSID."""
EFFECTS = DECLARED.effects

MAX_EXTRA = 10_000


class IndexedCollections:
    """The collections that records are kept of: those of the index, and any that matches one of `patterns`.

    A pattern is an NSID in which `*` stands for any characters (`sh.tangled.*`). Records of such a collection are kept
    in `bsky.record` alone.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        expressions = [".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns]
        self._matches = re.compile("|".join(expressions)).fullmatch if expressions else None
        self._extra: dict[str, Collection | None] = {}

    def get(self, nsid: str) -> Collection | None:
        """The collection, None when its records are not kept."""
        collection = COLLECTIONS.get(nsid)
        if collection is not None or self._matches is None:
            return collection
        if nsid not in self._extra:
            if len(self._extra) >= MAX_EXTRA:  # anybody can invent names
                self._extra.clear()
            self._extra[nsid] = Collection(nsid) if self._matches(nsid) else None
        return self._extra[nsid]

    def __contains__(self, nsid: object) -> bool:
        return isinstance(nsid, str) and self.get(nsid) is not None
