"""All collections of the index: every module of this folder that declares a `COLLECTION`."""

from __future__ import annotations

import importlib
import pkgutil

from appview_pipeline import indexing
from appview_pipeline.indexing.collection import Collection, Stage


def _declared() -> dict[str, Collection]:
    found = {}
    for module_info in pkgutil.iter_modules(indexing.__path__):
        module = importlib.import_module(f"{indexing.__name__}.{module_info.name}")
        collection = getattr(module, "COLLECTION", None)
        if isinstance(collection, Collection):
            found[collection.nsid] = collection
    return found


COLLECTIONS: dict[str, Collection] = _declared()
"""Collections by NSID."""

STAGES: tuple[Stage, ...] = tuple(stage for collection in COLLECTIONS.values() for stage in collection.stages)
