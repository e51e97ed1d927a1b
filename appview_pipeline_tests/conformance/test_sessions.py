"""How the sessions in the documents are read and made; that they are what happens is in test_sdk.py."""

from __future__ import annotations

import os
import re
import time

import pytest
from atproto_server.auth.jwt import verify_jwt
from atproto_server.exceptions import TokenInvalidSignatureError

from appview_pipeline_tests.conformance.reference.sdk import service_token
from appview_pipeline_tests.simulated_network.accounts import make_key, multikey
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.console import Command, commands, printed, section

SESSION = section((CHECKOUT / "docs" / "serve.md").read_text(), "A session")


def test_the_commands_use_what_the_document_sets() -> None:
    (given,) = re.findall(r"^APPVIEW=\S+ PASSWORD=\S+$", SESSION, re.MULTILINE)
    assert given == "APPVIEW=http://127.0.0.1:2584/xrpc PASSWORD=admin"
    used = {name for command in commands(SESSION) for name in re.findall(r"\$([A-Z]+)", command.text)}
    set_by_commands = {match[1] for it in commands(SESSION) if (match := re.match(r"([A-Z]+)=", it.text))}
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
def test_tokens_say_who_asks_whom_for_what(p256: bool) -> None:
    """Read by the published library."""
    key, method = make_key("somebody", p256=p256), "app.bsky.feed.getTimeline"
    token = service_token(key, "did:plc:a", "did:web:b", method)
    read = verify_jwt(token, lambda did, again: f"did:key:{multikey(key)}", "did:web:b")
    assert (read.iss, read.aud, read.lxm) == ("did:plc:a", "did:web:b", method)
    assert read.exp > time.time()
    other = f"did:key:{multikey(make_key('another', p256=p256))}"
    with pytest.raises(TokenInvalidSignatureError):
        verify_jwt(token, lambda did, again: other, "did:web:b")
