"""Defects in the processes that live by a lease."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

LEASES = (
    Mutant(
        name="a-lease-that-never-lapses",
        file="appview_pipeline/leases/lease.py",
        old="            if time.monotonic() - self._renewed > self._seconds:",
        new="            if False:",
        promise="A leased process ends by itself when nobody renews its lease.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=(
            "leases/test_leased_process.py::test_a_pause_between_two_ticks_that_is_shorter_than_the_lease_does_not_end_the_child",
        ),
    ),
    Mutant(
        name="an-orphan-goes-on",
        file="appview_pipeline/leases/lease.py",
        old='        self._end("the lease was given back")',
        new="        pass",
        promise="A leased process ends at once when the process that started it dies, or gives the lease back.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("leases/test_leased_process.py::test_the_child_ends_at_once_when_its_lease_is_given_back",),
    ),
    Mutant(
        name="a-deaf-child-lives-on",
        file="appview_pipeline/leases/leased_process.py",
        old="                process.kill()\n                process.wait()",
        new="                pass",
        promise="A leased process that does not listen is ended by force; its batch rolls back.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("leases/test_leased_process.py::test_a_deaf_child_is_killed_in_time",),
    ),
    Mutant(
        name="renewing-hangs",
        file="appview_pipeline/leases/leased_process.py",
        old="        os.set_blocking(self._process.stdin.fileno(), False)\n",
        new="",
        promise="A child that hangs holds up no tick.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("leases/test_leased_process.py::test_renewing_never_blocks_on_a_child_that_does_not_read",),
    ),
    Mutant(
        name="crashes-without-a-pause",
        file="appview_pipeline/leases/leased_process.py",
        old="                if time.monotonic() < self._not_before:\n                    return False",
        new="                pass",
        promise="A process that crashes again and again is started after longer and longer pauses.",
        documented="docs/operations.md#the-sensors",
        tests=("leases/test_leased_process.py::test_a_crash_is_reported_and_followed_by_longer_and_longer_pauses",),
    ),
)
