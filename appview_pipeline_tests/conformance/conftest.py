"""Fixtures of the tests that ask the published reference AppView (conformance/reference/README.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder of the reference and its Node."""
    folder = Path(os.environ.get("APPVIEW_REFERENCE_PACKAGES", "/nonexistent"))
    if not (folder / "@atproto" / "bsky").is_dir():
        pytest.skip("APPVIEW_REFERENCE_PACKAGES names no folder with @atproto/bsky (conformance/reference/README.md)")
    return folder
