"""Alerts fire when they should, ask for what the agent tells, and have a page that says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from routed.kube.leases import LeaseState
from tests.deploy.tools import TOOLS
from tests.fakes.node import Node
from tests.manifests import DEPLOY, MONITORING, Object, found

pytestmark = pytest.mark.timeout(900)  # promtool may have to be built first

CASES = Path(__file__).with_name("alerts.test.yaml")
PAGE = DEPLOY.parent / "docs/alerts.md"
OF_PROMETHEUS = {"up"}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules that are installed, as a file for Prometheus."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(found("PrometheusRule", MONITORING)["spec"]))
    return path


def alerts() -> dict[str, Object]:
    groups = found("PrometheusRule", MONITORING)["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def dashboard() -> Object:
    board: Object = json.loads(found("ConfigMap", MONITORING)["data"]["routed.json"])
    return board


def queries() -> list[str]:
    """Return what the dashboard asks."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def promtool(*command: str | Path) -> None:
    done = subprocess.run([TOOLS.program("promtool"), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_otherwise(rules: Path) -> None:
    shutil.copy(CASES, rules.parent)
    promtool("check", "rules", "--lint=all", "--lint-fatal", rules)
    promtool("test", "rules", rules.parent / CASES.name)


def test_every_alert_has_a_case_that_fires_it() -> None:
    fired = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
    assert fired == alerts().keys()


def test_promtool_notices_what_the_cases_do_not_say(rules: Path) -> None:
    """Negative control: a threshold of another alert."""
    rules.write_text(rules.read_text().replace("routed_gateway_known == 0", "routed_gateway_known == 1"))
    shutil.copy(CASES, rules.parent)
    with pytest.raises(AssertionError, match="RoutedGatewayUnknown"):
        promtool("test", "rules", rules.parent / CASES.name)


@pytest.mark.parametrize(
    ("guard", "alert"),
    [
        ("unless on (instance) routed_leases_current == 1", "RoutedAddressesExhausted"),
        ("unless on (instance) routed_leases_current\n", "RoutedAddressesLow"),
        ("unless on (instance) routed_leases_current == 0", "RoutedRackExhausted"),
    ],
)
def test_without_its_guard_an_alert_fires_for_a_server_that_leases(rules: Path, guard: str, alert: str) -> None:
    """Negative control of what the cases say about leases."""
    text = yaml.safe_dump(yaml.safe_load(rules.read_text()), width=10_000)
    assert guard in text
    rules.write_text(text.replace(guard, "\n" if guard.endswith("\n") else ""))
    shutil.copy(CASES, rules.parent)
    with pytest.raises(AssertionError, match=alert):
        promtool("test", "rules", rules.parent / CASES.name)


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{n}", "expr": text.replace("$instance", ".*")} for n, text in enumerate(queries())]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool("check", "rules", path)


async def test_alerts_and_dashboard_ask_for_what_the_agent_tells(tmp_path: Path) -> None:
    texts = "\n".join([*(rule["expr"] for rule in alerts().values()), *queries()])
    asked = set(re.findall(r"\brouted_\w+", texts))
    async with Node(tmp_path).running() as node:
        node.leases = LeaseState()
        told = node.metric_names()
    assert asked
    assert asked - told == set()


def test_every_panel_has_a_place_of_its_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own


def test_every_alert_has_its_section_and_a_link_to_it() -> None:
    sections = re.findall(r"^## (Routed\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sections == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/alerts.md#{name.lower()}")
        assert rule["labels"]["severity"] in {"warning", "critical"}
