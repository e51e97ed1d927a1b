"""Console sessions in documents: commands as they are typed, and what they print.

They are fenced blocks of the language `console`. A command begins with `$ `; it goes on in the next line after a pipe,
in an open quotation or after a backslash. What follows it, up to the next command or the end of the block, is what it
prints.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_BLOCKS = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "-- end of a command --"


@dataclass(frozen=True)
class Command:
    """A command of a session, and what it prints according to the document."""

    text: str
    output: str


def section(document: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def commands(document: str) -> list[Command]:
    """The commands of all console blocks of a document, in order."""
    return [command for block in _BLOCKS.findall(document) for command in _of_block(block)]


def _of_block(block: str) -> Iterator[Command]:
    lines = block.splitlines()
    while lines:
        first = lines.pop(0)
        assert first.startswith("$ "), f"output without a command: {first}"
        text = first[2:]
        while _goes_on(text):
            text += "\n" + lines.pop(0)
        output = []
        while lines and not lines[0].startswith("$ "):
            output.append(lines.pop(0))
        yield Command(text, "".join(f"{line}\n" for line in output))


def _goes_on(text: str) -> bool:
    return text.endswith(("|", "\\")) or text.count("'") % 2 == 1


def printed(session: Sequence[Command], environment: Mapping[str, str], seconds: float = 120) -> list[str]:
    """What the commands print when bash runs them one after another, in one shell."""
    script = "".join(f"{{ {command.text}\n}} 2>&1\necho '{_MARK}'\n" for command in session)
    ran = subprocess.run(
        ["bash", "-c", script], env=dict(environment), capture_output=True, text=True, timeout=seconds, check=True
    )
    return ran.stdout.split(f"{_MARK}\n")[:-1]
