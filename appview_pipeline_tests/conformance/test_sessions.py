"""The sessions in the documents are what happens: the commands of docs/serve.md, and docs/serve-session.md.

Needs `just reference` (conformance/reference/README.md), and for the commands curl and jq.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.reader import Reader
from appview_pipeline_tests.conformance.reference.sdk import service_token
from appview_pipeline_tests.conformance.reference.served_world import ServedNetwork
from appview_pipeline_tests.conformance.reference.session import running, transcript
from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.console import Command, commands, printed
from appview_pipeline_tests.support.tables import fresh_database

SERVE, SESSION = (CHECKOUT / "docs" / name for name in ("serve.md", "serve-session.md"))
_SECTION = re.compile(r"^## A session$(.*?)^## ", re.MULTILINE | re.DOTALL)
_TRANSCRIPT = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(
    server: EmbeddedPostgres, template_database: str, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServedNetwork, Reader]]:
    log = tmp_path_factory.mktemp("sessions") / "reference.log"
    with fresh_database(server, template_database) as database, running(database, packages, log) as made:
        yield made


def section() -> str:
    found = _SECTION.search(SERVE.read_text())
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_session_of_the_sdk_is_as_documented(served: tuple[ServedNetwork, Reader]) -> None:
    network, reader = served
    (documented,) = _TRANSCRIPT.findall(SESSION.read_text())
    assert transcript(network, reader.port).splitlines() == documented.splitlines()


@pytest.mark.slow
def test_the_commands_print_what_is_documented(served: tuple[ServedNetwork, Reader]) -> None:
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    session = commands(section())
    assert len(session) >= 15
    _, reader = served
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "APPVIEW": f"http://127.0.0.1:{reader.port}/xrpc",
        "PASSWORD": "admin",
    }
    for command, output in zip(session, printed(session, environment), strict=True):
        assert output == command.output, command.text


def test_the_commands_are_at_the_address_that_the_document_gives() -> None:
    """The first lines set what the commands use, and nothing else is used."""
    text = section()
    (given,) = re.findall(r"^APPVIEW=\S+ PASSWORD=\S+$", text, re.MULTILINE)
    assert given == "APPVIEW=http://127.0.0.1:2584/xrpc PASSWORD=admin"
    used = {name for command in commands(text) for name in re.findall(r"\$([A-Z]+)", command.text)}
    set_by_commands = {match[1] for it in commands(text) if (match := re.match(r"([A-Z]+)=", it.text))}
    assert used == {"APPVIEW", "PASSWORD"} | set_by_commands


def test_commands_are_read_with_what_they_print() -> None:
    text = """
```console
$ echo one |
    cat
one
$ A='x
y'
$ echo "$A"
x
y
```

```
$ not this
```
"""
    assert commands(text) == [
        Command("echo one |\n    cat", "one\n"),
        Command("A='x\ny'", ""),
        Command('echo "$A"', "x\ny\n"),
    ]
    assert printed(commands(text), dict(os.environ)) == ["one\n", "", "x\ny\n"]


@pytest.mark.parametrize("p256", [False, True])
def test_tokens_name_who_asks_whom_for_what(p256: bool) -> None:
    token = service_token(
        make_key("somebody", p256=p256), "did:plc:a", "did:web:b", "app.bsky.feed.getTimeline", 1_000.0
    )
    assert token == service_token(
        make_key("somebody", p256=p256), "did:plc:a", "did:web:b", "app.bsky.feed.getTimeline", 1_000.5
    )
    assert token.count(".") == 2 and "=" not in token
