"""The benchmark of labels measures what it says, on a few labels."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from appview_pipeline_tests.benchmark.labels import labels_of_one, rows_of, stages
from appview_pipeline_tests.support.checkout import CHECKOUT

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads CPU and memory from /proc")


def test_every_label_that_it_makes_is_read_and_verified() -> None:
    assert set(stages(200)) == {f"decode and verify, {name}" for name in ("unsigned", "k256", "p256")}
    rows = rows_of(labels_of_one(1_000, signed=False)[1])
    assert len(rows) == 1_000 and 0.03 < sum(row.neg for row in rows) / 1_000 < 0.1
    assert 0.6 < sum(bool(row.cid) for row in rows) / 1_000 < 0.9


@pytest.mark.slow
def test_a_tiny_form_of_it_gives_every_figure() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "appview_pipeline_tests.benchmark.labels",
         "--labels", "600", "--runs", "1", "--labelers", "3", "--statements"],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = re.findall(r"^\| (.*?) \| ([\d,]+) \| [\d.]+ \+ [\d.]+ = ([\d.]+) \|", ran.stdout, re.MULTILINE)
    assert [what for what, _, _ in lines] == [
        "application alone",
        "whole process, 3 labelers, unsigned",
        "whole process, 3 labelers, signed, k256",
    ]
    assert all(int(per_second.replace(",", "")) > 10 for _, per_second, _ in lines)
    assert "us  label derive" in ran.stdout
