"""The error that a person can do something about, and the one that says that a person asked for the end."""

from __future__ import annotations


class OperatorError(Exception):
    """A mistake in the set-up (a bad setting, an unreachable database) in one sentence that names the remedy.

    The command line and the sensor show the sentence alone; a traceback would only hide it. Bad data from upstream
    is never one of these (it becomes a dead letter), and neither is a broken invariant of our own (it stops loudly).
    """


class Stopped(Exception):
    """The process was asked to stop while it waited to try again. What it had in hand is not written."""
