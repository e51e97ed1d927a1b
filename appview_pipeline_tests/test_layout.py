"""The tests' folders mirror the product's, and no test module imports another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from appview_pipeline_tests.support.checkout import CHECKOUT

PRODUCT, TESTS = CHECKOUT / "appview_pipeline", CHECKOUT / "appview_pipeline_tests"

MIRRORED = {
    *("protocol", "network", "store", "leases", "serving", "indexing", "identity"),
    *("ingest", "backfill", "labels", "operations", "defs"),
}
"""Packages of the product whose tests have a folder of the same name."""
OTHERS = {"support", "properties", "conformance", "simulated_network", "benchmark", "mutants", "soak"}
"""Folders of `appview_pipeline_tests` that no package of the product stands for (docs/testing.md)."""


def modules(folder: Path = TESTS) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def packages(folder: Path) -> set[Path]:
    """The packages below a folder, relative to it."""
    return {path.parent.relative_to(folder) for path in modules(folder) if path.name == "__init__.py"} - {Path()}


def imported(module: Path) -> Iterator[str]:
    """The names of modules that a module may import, whatever they are of: `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == TESTS.name and any(part.startswith("test_") or part == "conftest" for part in parts)


def test_no_module_imports_a_test_module() -> None:
    assert len(modules()) > 100
    assert is_test("appview_pipeline_tests.store.test_plans.Cursor") and not is_test("appview_pipeline_tests.store")
    found = [(str(path.relative_to(TESTS)), name) for path in modules() for name in imported(path) if is_test(name)]
    assert found == [], "what tests share is a module in support/"


def test_every_folder_has_its_package_in_the_product() -> None:
    ours = {path for path in packages(TESTS) if path.parts[0] not in OTHERS}
    assert {path.parts[0] for path in ours} == MIRRORED == {path.parts[0] for path in packages(PRODUCT)}
    assert ours <= packages(PRODUCT)
    assert {path.parts[0] for path in packages(TESTS)} - MIRRORED == OTHERS


def test_the_mirrored_folders_hold_tests_only() -> None:
    expected = ("__init__.py", "conftest.py")
    folders = [TESTS / name for name in MIRRORED]
    found = [path for folder in folders for path in modules(folder) if path.name not in expected]
    assert [path for path in found if not path.name.startswith("test_")] == []


MAY_IMPORT = {
    "protocol": set(),
    "network": {"protocol"},
    "store": set(),
    "leases": {"store"},
    "serving": set(),
    "indexing": {"protocol", "store"},
    "identity": {"protocol", "network", "store", "leases"},
    "ingest": {"protocol", "network", "store", "leases", "indexing", "identity"},
    "backfill": {"protocol", "network", "store", "leases", "indexing", "identity", "ingest"},
    "labels": MIRRORED - {"labels", "operations", "defs"},
    "operations": MIRRORED - {"operations", "defs"},
    "defs": MIRRORED - {"defs"},
}
"""The packages that each package may import (docs/architecture.md), besides the modules beside them."""


def test_imports_point_one_way() -> None:
    assert set(MAY_IMPORT) == MIRRORED
    found = [
        (str(path.relative_to(PRODUCT)), name)
        for package, allowed in MAY_IMPORT.items()
        for path in modules(PRODUCT / package)
        for name in imported(path)
        if name.startswith(f"{PRODUCT.name}.")
        if name.split(".")[1] in MAY_IMPORT.keys() - allowed - {package}
    ]
    assert found == []


LIBRARIES = {
    "psycopg2": ("store/", "addresses.py"),  # libpq reads a URL by its own rules
    "sqlalchemy": ("store/", "defs/sweeps/history.py"),  # Dagster's event log is purged through its own engine
    "dagster": ("defs/",),
    "picows": ("network/",),
    "dns": ("network/",),
    "requests": ("network/",),
    "urllib3": ("network/",),
    "idna": ("network/",),
    "certifi": ("network/",),
    "starlette": ("serving/", "labels/", "operations/"),
    "uvicorn": ("serving/", "labels/client_sockets.py"),
    "prometheus_client": ("operations/",),
}
"""Libraries that few places of the product may know."""


def test_libraries_are_known_where_they_belong() -> None:
    found = {
        (name, str(path.relative_to(PRODUCT)))
        for path in modules(PRODUCT)
        for name in {name.partition(".")[0] for name in imported(path)} & LIBRARIES.keys()
    }
    assert {name for name, _ in found} == LIBRARIES.keys()
    assert [(name, place) for name, place in sorted(found) if not place.startswith(LIBRARIES[name])] == []


def test_the_simulated_network_needs_no_other_tests() -> None:
    """It is installed with the product."""
    folder = TESTS / "simulated_network"
    own = f"{TESTS.name}.{folder.name}"
    names = {name for path in modules(folder) if not path.name.startswith("test_") for name in imported(path)}
    assert {name for name in names if name.startswith(TESTS.name) and not f"{name}.".startswith(f"{own}.")} == set()
