"""Python modules of the conformance folder, which is no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def conformance_module(conformance: Path, name: str) -> ModuleType:
    """`state`: the folder's own dump and comparison; `check_facts`: what must hold in a scenario."""
    spec = importlib.util.spec_from_file_location(f"conformance_{name}", conformance / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
