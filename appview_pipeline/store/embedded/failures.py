"""Why the embedded PostgreSQL did not start, from its log, and what an operator can do about it."""

from __future__ import annotations

import re

from appview_pipeline.store.embedded.state_folder import StateFolder

# What the server says when it does not start, and the remedy. First match wins.
_REMEDIES = (
    (r"No space left on device", "free some disk space and start again"),
    (r"postgresql\.user\.conf", "correct that file"),
    (r"lock file|pre-existing shared memory|Address already in use", "stop the other server that uses this folder"),
    (r"has invalid permissions|wrong ownership", "set APPVIEW_STATE_DIR to a folder on a local disk"),
    (r"[Pp]ermission denied", "give the named file to the user of the database folder, or set APPVIEW_STATE_DIR"),
    (r"shared memory|semaphores|[Cc]annot allocate memory", "lower shared_buffers in postgresql.user.conf"),
    (r"user does not exist", "add this user to /etc/passwd, start as another user, or set DATABASE_URL"),
    (r"database files are incompatible", "set APPVIEW_POSTGRES_BIN to the binaries that made the data directory"),
)
# Another server was just ending: worth another try.
_TRANSIENT = re.compile(r"lock file|pre-existing shared memory|Address already in use|is shutting down")


def last_error(output: str) -> str:
    """The last error in a server's or initdb's output, with the line that explains a configuration error."""
    errors = re.findall(r"(?:FATAL|PANIC|ERROR|error):\s+(.*)", output)
    if not errors:
        return ""
    message: str = errors[-1].strip().rstrip(".:")
    if "contains errors" in message:
        details = [text for text in re.findall(r"LOG:\s+(.*)", output) if "parameter" in text or "error in" in text]
        if details:
            message = f"{details[-1].strip()} in {message}"
    return message


def is_transient(message: str) -> bool:
    """Whether the error comes from another server that is about to be gone."""
    return bool(_TRANSIENT.search(message))


def remedy(message: str, state: StateFolder) -> str:
    """What an operator can do about an error: the end of a sentence."""
    for pattern, found in _REMEDIES:
        if re.search(pattern, message):
            return found
    return f"see {state.log} or set DATABASE_URL"
