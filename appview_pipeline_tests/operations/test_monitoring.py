"""What comes with the metrics: Prometheus' configuration and alerts, and Grafana's dashboard."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from appview_pipeline.operations.metrics.exposition import TOPICS
from appview_pipeline_tests.support.checkout import CHECKOUT

DOCKER = CHECKOUT / "docker"
PROMETHEUS = DOCKER / "prometheus"
GRAFANA = DOCKER / "grafana"
PROVISIONING = GRAFANA / "provisioning"
FAMILIES = {family.name for families in TOPICS.values() for family in families}
OF_THE_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed"
)


def load(path: Path) -> ModuleType:
    """A script of the checkout, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look themselves up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, path.stem, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load(GRAFANA / "make_dashboard.py")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "appview.json").read_text(encoding="utf-8"))
    return found


def metrics_in(promql: str) -> set[str]:
    """The metrics that a query names; a histogram's series are the histogram's."""
    names = set(re.findall(r"\b(?:appview|process|python|up)\w*\b(?=\s*\{)", promql))
    names |= {name for name in re.findall(r"\bappview_\w+\b", promql) if name in FAMILIES}
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in names}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dashboard_is_what_its_script_makes(script: ModuleType) -> None:
    assert script.FILE.read_text(encoding="utf-8") == script.text(), "run docker/grafana/make_dashboard.py"


def test_the_dashboard_shows_every_metric_and_only_metrics_that_there_are(script: ModuleType) -> None:
    shown = {name for _, expr in script.queries() for name in metrics_in(expr)}
    assert shown == FAMILIES | OF_THE_PROCESS


def test_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafanas_own_library_reads_all_of_it(dashboard: dict[str, Any]) -> None:
    """Nothing of the file is unknown to it, so that nothing is lost."""
    reason = "grafana-foundation-sdk is not installed"
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=reason)
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    plugins.register_default_plugins()
    read = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
    assert lost(dashboard, read) == []


def lost(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """What the second one has not, or has differently."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key, value in ours.items()
            for line in (lost(value, theirs[key], f"{where}.{key}") if key in theirs else [f"{where}.{key}"])
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for position, (a, b) in pairs for line in lost(a, b, f"{where}[{position}]")]
    return [] if ours == theirs else [where]


@needs_promtool
def test_prometheus_understands_every_query(script: ModuleType, tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": expr} for number, (_, expr) in enumerate(script.queries())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_alerts_ask_for_metrics_that_there_are() -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    asked = {name for rule in rules for name in metrics_in(rule["expr"])} - {"up"}
    assert asked and asked <= FAMILIES
    page = (CHECKOUT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in page] == []
    assert {rule["labels"]["severity"] for rule in rules} == {"warn", "error"}


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
def test_alerts_fire_and_are_quiet() -> None:
    promtool("test", "rules", PROMETHEUS / "rules_test.yml")
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_the_compose_file_has_what_they_name(dashboard: dict[str, Any]) -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    (job,) = (
        it
        for it in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
        if it["job_name"] == "appview"
    )
    ((target,),) = (it["targets"] for it in job["static_configs"])
    service, _, port = target.partition(":")
    assert services[service]["environment"]["APPVIEW_METRICS_ADDRESS"].endswith(f":{port}")
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "appview.yml").read_text("utf-8"))["providers"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert dashboard["uid"] == "appview-pipeline"
    published = [port for it in services.values() for port in it.get("ports", ())]
    assert published and all(port.startswith("127.0.0.1:") for port in published), "on loopback only"
