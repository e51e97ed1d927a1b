"""The Python interpreter, set up for a process that decodes in one thread and waits for PostgreSQL in another."""

from __future__ import annotations

import gc
import sys

YOUNG_OBJECTS = 200_000
SWITCH_SECONDS = 0.000_1


def favour_throughput() -> None:
    """Sets the garbage collector and the switching between threads for this process, once it has imported its modules.

    Batches are trees of some hundred thousand objects, which reference counting frees. By default the collector looks
    for cycles in them hundreds of times a batch and finds none, which takes a quarter of the client's CPU. After each
    of a batch's hundred statements the applying thread needs the interpreter's lock for an instant; by default it would
    wait 5 ms for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)
