"""Waits of the label process that a test can sit out."""

from __future__ import annotations

import pytest

from appview_pipeline_tests.support.label_streams import quicken


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
