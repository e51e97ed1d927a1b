"""The conformance folder's own dump-and-compare."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def state_module(conformance: Path) -> ModuleType:
    """The conformance folder's own dump-and-compare."""
    spec = importlib.util.spec_from_file_location("conformance_state", conformance / "state.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
