"""All collections of the index: every module of `collections/` that declares a `COLLECTION`."""

from __future__ import annotations

import importlib
import pkgutil

from appview_pipeline.indexing import collections
from appview_pipeline.indexing.collection import Collection, Stage


def _declared() -> dict[str, Collection]:
    found = {}
    for module_info in pkgutil.iter_modules(collections.__path__):
        collection = importlib.import_module(f"{collections.__name__}.{module_info.name}").COLLECTION
        assert isinstance(collection, Collection)
        found[collection.nsid] = collection
    return found


COLLECTIONS: dict[str, Collection] = _declared()
"""Collections by NSID."""

STAGES: tuple[Stage, ...] = tuple(stage for collection in COLLECTIONS.values() for stage in collection.stages)
