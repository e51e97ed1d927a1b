"""Something that goes on in a thread beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], object]) -> Iterator[None]:
    """Calls `action` again and again during the block. Raises what it raised."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            action()

    with ThreadPoolExecutor(1) as pool:
        repeating = pool.submit(repeat)
        try:
            yield
        finally:
            done.set()
        repeating.result(60)
