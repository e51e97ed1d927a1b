"""`appview-simulated-network`: what it writes, and what it says when it cannot start. Its start: test_packaging.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from appview_pipeline_tests.simulated_network import generate, read_corpus
from appview_pipeline_tests.simulated_network.__main__ import PORTS, main

START = 1_790_000_000


def test_a_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "frames.zst"
    options = ["--frames", "50", "--accounts", "20", "--no-pasts", "--start", str(START), "--seed", "3"]
    result = CliRunner().invoke(main, ["--write", str(path), *options])
    assert result.exit_code == 0 and f"{path}: 50 frames" in result.output
    assert list(read_corpus(path)) == list(generate(3, 20, 50, start=START, pasts=()))


@pytest.mark.parametrize("taken", PORTS)
def test_a_port_that_is_taken_is_one_sentence(taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        ports = [f"--{name}-port={number if name == taken else 0}" for name in PORTS]
        result = CliRunner().invoke(main, ["--no-pasts", "--accounts", "5", *ports])
    assert result.exit_code == 1
    assert "Error: One of the ports" in result.output and str(number) in result.output
    assert "--dns-port" in result.output and "Traceback" not in result.output
