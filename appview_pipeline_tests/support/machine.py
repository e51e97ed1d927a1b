"""How fast this machine is at the moment, for the few tests whose promise is a limit of time."""

from __future__ import annotations

import subprocess
import sys
import time

QUIET_SECONDS = 1.5
"""What a Python takes to start with Dagster on a quiet machine, generously."""


def slowness() -> float:
    """How many times slower than a quiet machine this one is now; at least 1. Takes a second or more to find out."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import dagster"], check=True)
    return max(1.0, (time.monotonic() - began) / QUIET_SECONDS)
