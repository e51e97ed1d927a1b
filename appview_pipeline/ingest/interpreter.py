"""The Python interpreter, set up for a process that decodes in one thread and waits for PostgreSQL in another."""

from __future__ import annotations

import gc
import sys

YOUNG_OBJECTS = 200_000
SWITCH_SECONDS = 0.000_1


def favour_throughput() -> None:
    """Sets the garbage collector and the switching between threads for this process, once it has imported its modules.

    Batches are trees of some hundred thousand objects that reference counting frees; the collector's default looks
    at them hundreds of times a batch for cycles that are not there, which is a quarter of the client's CPU. And after
    each of a batch's hundred statements the applying thread wants the interpreter's lock for an instant, for which it
    would wait 5 ms by default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)
