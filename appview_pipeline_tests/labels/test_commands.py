"""`appview-pipeline labels`: the commands of docs/labels.md give what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from appview_pipeline import logs
from appview_pipeline.cli import cli
from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.label_live import LabelSummary
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import one, rows

OURS, ANN, BOB = ("did:plc:" + letter * 24 for letter in "oab")
POST = f"at://{ANN}/app.bsky.feed.post/3l"
KEY = "01" * 32


class Commands:
    """The command line on a database, as our labeler."""

    def __init__(self, database: Database) -> None:
        self._environment = {
            "DATABASE_URL": database.url,
            "APPVIEW_LABELER_DID": OURS,
            "APPVIEW_LABELER_KEY": KEY,
        }

    def __call__(self, *arguments: str, given: bytes | None = None) -> Result:
        found = CliRunner().invoke(cli, ["labels", *arguments], env=self._environment, input=given)
        if isinstance(found.exception, OperatorError):
            raise found.exception
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found


@pytest.fixture
def labels(database: Database, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(logs, "configure", lambda settings, service: None)  # the tests' own handlers stay
    return Commands(database)


def documented() -> Iterator[tuple[list[str], str]]:
    """The commands of docs/labels.md under a prompt, without the program's name, and what they print."""
    text = (CHECKOUT / "docs" / "labels.md").read_text()
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in block.split("$ appview-pipeline ")[1:]:
            command, _, output = part.partition("\n")
            yield shlex.split(command), output


def test_the_documents_commands_print_what_they_say(
    labels: Commands, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... stands for anything."""
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text(f"{ANN},a\n{ANN},b\nnobody.test,spam\n{ANN},c,,2999-01-01T00:00:00Z\n")
    commands = list(documented())
    for (group, *arguments), output in commands:
        assert group == "labels"
        pattern = ".*".join(map(re.escape, output.split("...")))
        found = labels(*arguments)
        refused = re.findall(r"^line .*\n", found.stderr.replace("\r", "\n"), re.MULTILINE)
        assert re.fullmatch(pattern, "".join(refused) + found.stdout), (arguments, found.output)
    assert len(commands) > 10
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE sig IS NOT NULL") == 6


def test_the_documents_python_runs(labels: Commands, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    text = (CHECKOUT / "docs" / "labels.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", database.url)
        environment.setenv("APPVIEW_LABELER_DID", OURS)
        exec(compile(code, "docs/labels.md", "exec"), {})
    assert f"('{OURS}', 'spam'" in capsys.readouterr().out


def test_the_documents_summary_of_subscribe_has_all_fields() -> None:
    (line,) = re.findall(r'^\{"events".*$', (CHECKOUT / "docs" / "labels.md").read_text(), re.MULTILINE)
    assert list(orjson.loads(line)) == [field.name for field in fields(LabelSummary)]


def test_the_documents_sql_runs(database: Database) -> None:
    text = (CHECKOUT / "docs" / "labels.md").read_text()
    (query,) = [it for it in re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "query_labels" in it]
    assert rows(database.url, query) == []


def test_labels_come_from_standard_input(labels: Commands, database: Database) -> None:
    found = labels("apply", "--file", "-", given=f"{POST},spam\n{ANN},rude\nx\n".encode())
    assert found.exit_code == 1 and "line 3: The line has no subject, or no val." in found.output
    assert orjson.loads(found.stdout.splitlines()[-1]) == {
        "lines": 3,
        "refused": 1,
        "labels": 2,
        "negations": 0,
        "unchanged": 0,
    }
    found = labels("negate", "--file", "-", given=f"{POST},spam\n{POST},nothing\n".encode())
    assert found.exit_code == 0 and orjson.loads(found.stdout.splitlines()[-1])["negations"] == 1
    assert labels("negate", ANN, "rude").exit_code == 0
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE NOT neg") == 0
    assert orjson.loads(labels("negate", ANN, "rude", "--force").stdout)["negations"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply"],
        ["apply", POST],
        ["apply", POST, "spam", "--file", "-"],
        ["apply", "--cid", "x", "--file", "-"],
        ["negate"],
        ["query", "--limit", "0"],
        ["definitions", "set", "rude"],
    ],
)
def test_what_does_not_go_together_is_explained(labels: Commands, arguments: list[str]) -> None:
    found = labels(*arguments, given=b"")
    assert found.exit_code == 2 and "Usage:" in found.output


def test_a_mistake_is_one_sentence(labels: Commands) -> None:
    with pytest.raises(OperatorError, match=r"^no account is known to have the handle nobody\.test: give its DID\.$"):
        labels("apply", "nobody.test", "spam")
    with pytest.raises(OperatorError, match=r"^no account is known to have the handle nobody\.test: give its DID\.$"):
        labels("query", "--subject", "nobody.test")
    for command in ("query", "definitions"):
        with pytest.raises(OperatorError, match=r"^'nobody' is neither a DID nor a handle\.$"):
            labels(command, "--source", "nobody")
    with pytest.raises(OperatorError, match=r"is no severity that readers know"):
        labels("definitions", "set", "rude", "--severity", "bad", "--locale", "en", "a", "b")


def test_lists_of_nothing_say_so(labels: Commands) -> None:
    assert labels("query").output == "No such labels.\n"
    assert labels("query", "--json").output == ""
    assert labels("definitions").output == "No such definitions.\n"
    assert labels("definitions", "remove", "rude").output == "Nothing was set here of rude.\n"


def test_more_labels_than_a_page_holds_are_listed(labels: Commands) -> None:
    labels("apply", "--file", "-", given="".join(f"{POST},v{number}\n" for number in range(1_100)).encode())
    assert len(labels("query", "--limit", "5000").output.splitlines()) == 1_100
    assert len(labels("query", "--subject", POST, "--limit", "1050").output.splitlines()) == 1_050
    assert len(labels("query", "--value", "v7", "--json").output.splitlines()) == 1
