"""The data directory of the embedded PostgreSQL: its version, its creation, its configuration.

Every function that runs a program raises `OperatorError` with what the program said and what an operator can do.
"""

from __future__ import annotations

import locale
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appview_pipeline.errors import OperatorError
from appview_pipeline.store.embedded import child_process, configuration, failures, server_user
from appview_pipeline.store.embedded.binaries import Binaries
from appview_pipeline.store.embedded.server_user import ServerUser
from appview_pipeline.store.embedded.state_folder import StateFolder


def major_version(state: StateFolder) -> int | None:
    """The version of PostgreSQL that made the data directory; None where there is none yet.

    Raises `OperatorError` when the folder is something else.
    """
    if not state.data_dir.exists():
        return None
    try:
        return int((state.data_dir / "PG_VERSION").read_text(encoding="ascii").partition(".")[0])
    except (OSError, ValueError):
        raise OperatorError(
            f"{state.data_dir} is not a PostgreSQL data directory (no readable PG_VERSION): move it away to "
            "start with an empty database, or set APPVIEW_STATE_DIR to another folder."
        ) from None


def create(state: StateFolder, user: ServerUser, binaries: Binaries, *, ephemeral: bool) -> None:
    """Runs initdb in a temporary folder and renames that, so that a data directory that exists is complete."""
    for unfinished in state.path.glob("initdb-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix="initdb-", dir=state.path))
    user.own(building)
    building.chmod(0o700)
    if building.stat().st_mode & 0o077:
        raise OperatorError(
            f"The file system of {state.path} does not keep file permissions, which PostgreSQL insists on: "
            "set APPVIEW_STATE_DIR to a folder on a local disk."
        )
    argv = [str(binaries.folder / "initdb"), "-D", str(building), "-U", "postgres", "-E", "UTF8"]
    argv += ["--auth-local=trust", "--auth-host=reject", "--no-instructions", *_locale(binaries.major)]
    argv += ["--no-sync"] if ephemeral else []
    _run(argv, state, user)
    # Kept beside what initdb found out about this machine, which comes first and is overridden.
    includes = "\ninclude 'appview.conf'\ninclude_if_exists '../postgresql.user.conf'\n"
    _run(["/bin/sh", "-c", 'cat >>"$1"', "sh", str(building / "postgresql.conf")], state, user, includes)
    building.rename(state.data_dir)
    if not ephemeral:
        folder = os.open(state.path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def configure(state: StateFolder, user: ServerUser, binaries: Binaries, *, ephemeral: bool) -> None:
    """Writes the server's settings for this machine, and the operator's file of settings if there is none."""
    if not state.user_conf.exists():
        with os.fdopen(state.open("postgresql.user.conf", os.O_WRONLY), "w", encoding="utf-8") as file:
            file.write(configuration.USER_CONF)
    text = configuration.conf_text(
        configuration.server_settings(
            configuration.usable_memory(),
            shutil.disk_usage(state.data_dir).total,
            ephemeral=ephemeral,
            lz4=_accepts("wal_compression=lz4", state, user, binaries),
        )
    )
    # Written by the server's user: root never opens a file for writing in a folder of another user.
    _run(["/bin/sh", "-c", 'cat >"$1"', "sh", str(state.data_dir / "appview.conf")], state, user, text)


def _accepts(setting: str, state: StateFolder, user: ServerUser, binaries: Binaries) -> bool:
    """Whether these binaries know the setting `name=value`: `-C` checks it without starting a server."""
    program = str(binaries.folder / "postgres")
    # Without the configuration files, where an operator's error must not matter here.
    argv = [program, "-D", str(state.data_dir), "-c", f"config_file={os.devnull}", "-c", setting]
    return server_user.runs(user, [*argv, "-C", setting.partition("=")[0]])


def _run(argv: Sequence[str], state: StateFolder, user: ServerUser, text: str = "") -> None:
    try:
        done = subprocess.run(
            argv,
            cwd="/",
            env=child_process.environment(),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=child_process.end_with_us(signal.SIGKILL),
            **user.popen(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise OperatorError(
            f"Cannot run {argv[0]} as `{user.name}` ({error}): start as an ordinary user or set DATABASE_URL."
        ) from None
    if done.returncode:
        with os.fdopen(state.open("postgres.log", os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as log:
            log.write(done.stdout)
        message = failures.last_error(done.stdout) or f"exit status {done.returncode}"
        raise OperatorError(
            f"The embedded PostgreSQL's data directory cannot be created ({message}): "
            f"{failures.remedy(message, state)}."
        )


def _locale(major: int) -> list[str]:
    """initdb's flags for texts that sort by their bytes on every machine, with Unicode's letters and cases.

    The C library's character classes are needed besides the built-in provider's: pg_trgm asks only them, and with
    those of "C" it finds no trigrams in any but ASCII text.
    """
    flags = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    before = locale.setlocale(locale.LC_CTYPE)
    character_classes = "C"
    for candidate in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, candidate)
        except locale.Error:
            continue
        character_classes = candidate
        break
    locale.setlocale(locale.LC_CTYPE, before)
    return [*flags, "--locale=C", f"--lc-ctype={character_classes}"]
