"""State folders, and a Python that another user can run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.store.embedded import server_user
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.embedded_server import NOBODY, attach, new_state


@pytest.fixture
def state() -> Iterator[Path]:
    with new_state() as path:
        yield path


@pytest.fixture(scope="module")
def warm_state() -> Iterator[Path]:
    """A state folder with a data directory, shared to save time: no test may leave it in a state that matters."""
    with new_state() as path:
        attach(path).close()
        yield path


@pytest.fixture
def nobodys_python() -> dict[str, Any]:
    """Arguments for `User` with which `nobody` can run this checkout: ours may be under root's home."""
    site = os.pathsep.join([str(CHECKOUT), *(folder for folder in sys.path if folder.endswith("site-packages"))])
    nobody = server_user.ServerUser(NOBODY["user"], NOBODY["group"], "nobody", switch=True)
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        code = f"import sys; sys.path += {site.split(os.pathsep)!r}; import appview_pipeline.store.embedded.attach"
        if server_user.runs(nobody, [python, "-c", code]):
            return {"python": python, "env": {"PYTHONPATH": site}, **NOBODY}
    pytest.skip("`nobody` can read neither this Python nor the system's of the same version, or not this checkout")
