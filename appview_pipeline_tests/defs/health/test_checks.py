"""Every check of the code location has its paragraph, and every paragraph its check; by hand all can be evaluated."""

from __future__ import annotations

import dataclasses
import re

import dagster as dg
import pytest

from appview_pipeline import settings
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.health.checks import CHECKS, SUPERVISED, evaluate_all, health_checks
from appview_pipeline.operations.conditions import CONDITIONS
from appview_pipeline.settings import SETTINGS
from appview_pipeline_tests.support.checkout import CHECKOUT

PAGE = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")


def checks_of_the_location() -> dict[str, set[str]]:
    """All checks by name, with the assets that have them."""
    found: dict[str, set[str]] = {}
    for key in defs.resolve_asset_graph().asset_check_keys:
        found.setdefault(key.name, set()).add(key.asset_key.to_user_string())
    return found


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_check_has_a_paragraph_and_every_paragraph_a_check() -> None:
    paragraphs = re.findall(r"^### (.+)\n(.{40,})", section("What to do"), re.MULTILINE)
    names = [name for name, _ in paragraphs]
    assert sorted(names) == sorted(checks_of_the_location()) and len(names) == len(set(names))
    assert {check.name for check in CHECKS} < set(names) and set(names) > SUPERVISED


def test_every_check_is_in_the_table_with_its_asset_severity_and_threshold() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (.+) \| (\w+) \| (.+) \|$", section("Checks"), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", assets)) for name, _, assets, _, _ in rows} == checks_of_the_location()
    assert all(name == anchor for name, anchor, *_ in rows)
    known = {check.name: check for check in CHECKS}
    variables = {variable for setting in SETTINGS for variable in setting.metadata["variables"]}
    for name, _, _, severity, threshold in rows:
        if name in known:
            assert severity == known[name].severity
            assert threshold == (f"`{known[name].setting}`" if known[name].setting else "none")
        assert threshold == "none" or threshold.strip("`") in variables
    of_dagster = [name for name, *_ in rows if name not in {it.name for it in CONDITIONS}]
    assert len(of_dagster) == 6 and of_dagster == [name for name, *_ in rows][-6:]
    assert "without Dagster, but for the last six of the table." in section("Checks")


def test_every_description_links_its_paragraph() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.asset_check_keys:
        description = graph.get_check_spec(key).description or ""
        assert f"docs/operations.md#{key.name}" in description, key


def test_all_checks_can_be_evaluated_by_hand_at_once(index: None) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [*defs.assets, health_checks],  # type: ignore[misc]
            selection=dg.AssetSelection.checks(health_checks),
            resources=dict(defs.resources or {}),
            instance=instance,
        )
    found = {it.check_name: it for it in done.get_asset_check_evaluations()}
    assert found.keys() == {check.name for check in CHECKS}
    failed = {name for name, it in found.items() if not it.passed}
    assert failed >= {"connected", "keeps_up", "resolving", "resolution_keeps_up", "fetching", "reading_labels"}
    assert not failed & {"gaps_close", "database_answers", "transactions_end", "ticks_succeed", "runs_succeed"}
    assert found["connected"].metadata["what_to_do"].value == "docs/operations.md#connected"


def test_without_a_database_the_check_on_it_says_why(index: None, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = dataclasses.replace(settings.load(), database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(settings, "load", lambda: nowhere)
    database_module.reopen()
    with dg.instance_for_test() as instance:
        answers, *others = evaluate_all(instance, IndexDatabase().open, nowhere)
    assert not answers.passed and answers.name == "database_answers" and answers.severity == "error"
    assert "127.0.0.1" in answers.words and {it.name for it in others} == {"ticks_succeed", "runs_succeed"}
