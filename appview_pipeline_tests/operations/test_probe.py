"""`appview-pipeline healthy`: what it takes for healthy, and how it says what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner

from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.probe import MAX_ANSWER_BYTES, Health, ask, default_url
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.http_server import HttpServer, Request, ok, status
from appview_pipeline_tests.support.ports import free_port


def answer(request: Request) -> bytes | None:
    """The answer that the path asks for."""
    if request.path == "/hangs":
        time.sleep(1)
        return None
    return {
        "/ours": ok(b'{"is_healthy": true, "sentence": "All is well."}'),
        "/ours-ill?x=1": ok(b'{"sentence": "The stream is late."}', status="503 Service Unavailable"),
        "/others": status("204 No Content"),
        "/others-ill": ok(b"<html>", status="500 Internal Server Error"),
        "/moved": status("302 Found", "Location: /ours\r\n"),
        "/list": ok(b"[1]"),
        "/long": ok(b" " * (10 * MAX_ANSWER_BYTES)),
        "/nonsense": b"ABC\r\n\r\n",
    }[request.path]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HttpServer(answer) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_what_is_healthy(url: str) -> None:
    assert ask(f"{url}/ours") == Health(True, "All is well.")
    assert ask(f"{url}/ours-ill?x=1") == Health(False, "The stream is late.")
    assert ask(f"{url}/others") == Health(True, f"{url}/others answered 204 No Content.")
    assert ask(f"{url}/others-ill") == Health(False, f"{url}/others-ill answered 500 Internal Server Error.")
    assert not ask(f"{url}/moved").is_healthy
    assert ask(f"{url}/list").is_healthy and ask(f"{url}/long").is_healthy
    assert not ask(f"{url}/nonsense").is_healthy


def test_who_does_not_answer_is_not_healthy(url: str) -> None:
    assert ask(f"{url}/hangs", 0.2) == Health(False, f"{url}/hangs can't be asked: it did not answer in time.")
    nobody = f"http://127.0.0.1:{free_port()}/"
    assert ask(nobody).sentence.startswith(f"{nobody} can't be asked: ")
    assert not ask(nobody).is_healthy


@pytest.mark.parametrize(
    "wrong", ["", "x", "ftp://x/", "http://", "http://x:y/", "http://[::1/", "http://x:99999/", "http://x/é"]
)
def test_what_is_no_url(wrong: str) -> None:
    with pytest.raises(OperatorError, match="is not a URL that can be asked"):
        ask(wrong)


def test_a_host_that_has_no_name_is_a_sentence_and_a_password_is_not_repeated() -> None:
    assert "can't be asked" in ask(f"http://{'a' * 70}.invalid/").sentence
    with pytest.raises(OperatorError, match="names a user") as refused:
        ask("http://me:secret@127.0.0.1/")
    assert "secret" not in str(refused.value)


def test_where_it_asks_by_default() -> None:
    assert default_url(Settings()) == "http://127.0.0.1:2481/readyz"
    for host, shown in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("metrics", "metrics")):
        assert default_url(replace(Settings(), metrics_address=(host, 1))) == f"http://{shown}:1/readyz"


@pytest.mark.usefixtures("restored_logging")
def test_the_exit_code_says_it_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CliRunner().invoke(cli, ["healthy", "--url", f"{url}/ours"])
    assert (found.exit_code, found.output) == (0, "All is well.\n")
    found = CliRunner().invoke(cli, ["healthy", "--url", f"{url}/ours-ill?x=1"])
    assert (found.exit_code, found.stderr) == (1, "The stream is late.\n")
    monkeypatch.setenv("APPVIEW_METRICS_ADDRESS", f"127.0.0.1:{free_port()}")
    found = CliRunner().invoke(cli, ["healthy"])
    assert found.exit_code == 1 and "/readyz can't be asked" in found.stderr
