"""What is handed to operators for Prometheus and Grafana speaks of metrics that exist, and says what it means to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mautrix_sfu.config import example_text
from tests.support.exposition import Family, families, whole
from tests.support.prometheus import promtool

CONTRIB = Path(__file__).parent.parent / "contrib"
PROMETHEUS = CONTRIB / "prometheus"
OF_PROMETHEUS = {"job", "instance", "le"}  # labels that Prometheus gives itself, and that of histograms


def load(name: str) -> Any:
    return YAML(typ="safe").load((PROMETHEUS / name).read_text())


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in load(name)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONTRIB / "grafana" / "mautrix-sfu.json").read_text())
    return found


def queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


@pytest.fixture(scope="module")
def shown() -> dict[str, Family]:
    with whole() as metrics:
        return families(metrics.render()[0].decode())


def check(expression: str, shown: dict[str, Family], recorded: set[str]) -> set[str]:
    """The metrics that an expression asks for; all of them exist, with the labels that it names."""
    without_strings = re.sub(r'"[^"]*"', '""', expression)
    assert set(re.findall(r"\b\w+:\w+:\w+\b", without_strings)) <= recorded
    asked = set()
    labels = set(OF_PROMETHEUS)
    for name in re.findall(r"(?<![:\w])(?:mautrix_sfu|process)_\w+(?!\w*:)", without_strings):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        family = shown.get(name) or shown.get(base)
        assert family is not None, f"there is no {name}, asked for by {expression}"
        assert (family.kind == "histogram") == (name not in shown), f"{name} in {expression}"
        labels |= family.labels
        asked.add(family.name)
    if not recorded & set(re.findall(r"\b\w+:\w+:\w+\b", without_strings)):
        named = {label for group in re.findall(r"by \(([^)]*)\)", without_strings) for label in group.split(",")}
        named |= set(re.findall(r'(\w+)=~?""', without_strings))
        assert {label.strip() for label in named} <= labels, f"a label that is not there, in {expression}"
    return asked


def test_every_metric_of_the_dashboard_exists(shown: dict[str, Family]) -> None:
    asked = set().union(*(check(query, shown, set()) for query in queries()))
    assert len(asked) > 60
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    assert "$datasource" not in "".join(queries())
    assert all("$instance" in query for query in queries()), "each panel is about the chosen foci"


def test_a_dashboards_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_of_the_rules_exists(shown: dict[str, Family]) -> None:
    recorded = {rule["record"] for rule in rules("rules.yaml")}
    for rule in rules("rules.yaml"):
        assert check(rule["expr"], shown, set())
    for rule in rules("alerts.yaml"):
        assert (
            check(rule["expr"], shown, recorded)
            or recorded & set(re.findall(r"\w+:\w+:\w+", rule["expr"]))
            or (rule["alert"] == "FocusDown")
        )
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_is_played(shown: dict[str, Family]) -> None:
    played = {case["name"] for case in load("tests.yaml")["tests"]}
    assert {rule["alert"] for rule in rules("alerts.yaml")} < played
    for case in load("tests.yaml")["tests"]:
        for series in case["input_series"]:
            check(series["series"], shown, set())


def test_the_scrape_configuration_reads_where_the_example_listens() -> None:
    metrics = YAML(typ="safe").load(example_text())["metrics"]
    (job,) = load("prometheus.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{metrics['hostname']}:{metrics['port']}"]}]
    assert all((PROMETHEUS / name).is_file() for name in load("prometheus.yaml")["rule_files"])


@pytest.mark.prometheus
def test_prometheus_own_tool_takes_the_rules_and_they_do_what_they_are_for() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml", "alerts.yaml", cwd=PROMETHEUS)
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml", cwd=PROMETHEUS)
    assert "SUCCESS" in promtool("test", "rules", "tests.yaml", cwd=PROMETHEUS)
