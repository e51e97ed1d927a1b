"""How the programs of the embedded PostgreSQL are started: with what environment, and when they end."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from appview_pipeline.store.embedded import server_user

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: the child of one may not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def environment() -> dict[str, str]:
    """What the server needs of our environment, and messages in English."""
    return {**server_user.environment(), "LANG": "C", "LC_ALL": "C"}


def end_with_us(number: int) -> Callable[[], None] | None:
    """For Popen's preexec_fn: the child gets signal `number` when this thread ends, however it ends. Linux only.

    Elsewhere the next start finds and ends what was left.
    """
    if _LIBC is None:
        return None
    parent = os.getpid()
    set_option = _LIBC.prctl

    def ask_kernel() -> None:
        set_option(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)

    return ask_kernel
