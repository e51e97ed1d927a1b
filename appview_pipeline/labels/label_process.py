"""The label process as a leased process (`leases/leased_process.py`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from appview_pipeline.leases.leased_process import LeasedProcess

COMMAND = (sys.executable, "-m", "appview_pipeline.labels.label_live")


def label_process(command: Sequence[str] = COMMAND) -> LeasedProcess:
    """The label process of the settings' database, not yet started."""
    return LeasedProcess(name="label process", command=command)
