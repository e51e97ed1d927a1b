"""A copy of the checkout, in which a defect can be put without anybody being disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appview_pipeline_tests.mutants.mutant import Mutant, mutated
from appview_pipeline_tests.support.checkout import CHECKOUT, SHARED

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "logs")
_GRACE_SECONDS = 30.0
"""How long a run that is interrupted has for ending what it started."""


class CheckoutCopy:
    """A folder with the checkout as it is now, changes that are not committed included."""

    def __init__(self, folder: Path) -> None:
        """Copies the checkout into `folder`, which must not exist yet, and checks that Python would use the copy."""
        self.folder = folder
        shutil.copytree(CHECKOUT, folder, ignore=_LEFT_OUT)
        if SHARED.is_dir() and not (link := folder.parent / SHARED.name).exists():
            link.symlink_to(SHARED)
        # Compiled files that are checked by content: by time and size, an edit within a second could go unnoticed.
        # (Python keeps to that when it compiles one again.)
        compiled = ("appview_pipeline", "appview_pipeline_tests")
        self._python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *compiled)
        found = self._python(
            "-c", "from appview_pipeline.store import sql; print(sql.__file__, sql.folder(), sep='\\n')"
        )
        assert [folder in Path(path).parents for path in found.splitlines()] == [True, True], found

    def _python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), check=True, capture_output=True, text=True
        )
        return done.stdout

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("APPVIEW_", "PYTEST_"))}
        return ours | {"PYTHONPATH": str(self.folder)}

    @contextmanager
    def with_defect(self, mutant: Mutant) -> Iterator[None]:
        """The defect is in the copy for the time of the block."""
        path = self.folder / mutant.file
        original = path.read_text(encoding="utf-8")
        path.write_text(mutated(mutant, original), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(original, encoding="utf-8")

    def run_tests(self, tests: Sequence[str], report: Path, seconds: float, *options: str) -> int | None:
        """Runs tests of the copy, and has pytest write its report as JUnit XML.

        Returns pytest's exit code; None where they took longer than `seconds` and were ended.
        """
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--slow", "-p", "no:cacheprovider", *options]
        command += [f"--junitxml={report}", *tests]
        # A session of its own, so that what the tests started can be ended with them.
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group: an interrupt first, so that it clears away what it made."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
