"""The tables of the predecessor (PublicAppView) that `import-predecessor` reads, and some that it does not."""

from __future__ import annotations

from pathlib import Path

from appview_pipeline_tests.support.database import run

TABLES = Path(__file__).with_name("predecessor.sql")


def make(url: str) -> None:
    """Makes its tables in an empty database."""
    run(url, TABLES.read_text(encoding="utf-8"))


def analyze(url: str) -> None:
    """Counts rows, as the server does by itself after a while."""
    run(url, "ANALYZE")
