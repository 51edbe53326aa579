"""The alert rules and the dashboard ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs_metrics import metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "packaging" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "cryoshim.json"
# Labels that Prometheus adds, and that of a bucket.
_ADDED = {"instance", "job", "le"}
_SERIES = re.compile(r"\b(cryo_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"")


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def targets() -> Iterator[dict[str, str]]:
    """Yield the queries of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        yield from panel.get("targets", ())


def mistakes(expression: str) -> list[str]:
    """Return what an expression asks for that is not there."""
    found, there, labels = [], metrics(), set(_ADDED)
    for name, selectors in _SERIES.findall(expression):
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        known = there.get(name) or there.get(plain)
        if known is None or (plain != name and name not in there and known[0] != "histogram"):
            found.append(name)
            continue
        labels |= set(known[1])
        found += [one for one in _LABEL.findall(selectors) if one not in {*known[1], *_ADDED}]
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        found += [one for one in re.split(r",\s*", grouped) if one not in labels]
    return found


def test_alerts_ask_for_what_there_is() -> None:
    """Each has a severity, a summary and a description, whose labels its query has."""
    assert len(rules()) > 4
    for rule in rules():
        assert rule["expr"].startswith("up{") or "cryo_" in rule["expr"]
        assert mistakes(rule["expr"]) == [], rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert label in rule["expr"] or label == "instance", rule["alert"]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Each query is of a metric that there is, and a legend has labels that the query keeps."""
    asked = list(targets())
    assert len(asked) > 10
    for target in asked:
        assert "cryo_" in target["expr"]
        assert mistakes(target["expr"]) == [], target["expr"]
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert label in target["expr"], target


def test_the_dashboard_shows_every_metric() -> None:
    """What is measured is seen, apart from what describes the metrics themselves."""
    shown = " ".join(target["expr"] for target in targets())
    apart = {"cryo_build_info", "cryo_collector_success", "cryo_images", "cryo_open_journals"}

    assert {
        name for name in metrics() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)
    } == apart


@pytest.mark.parametrize(
    "expression",
    (
        "cryo_nothing > 0",
        "cryo_images_bucket",
        'cryo_tasks{stat="running"}',
        "sum by (nothing) (cryo_tasks)",
    ),
)
def test_a_mistake_is_found(expression: str) -> None:
    """The checks above find a metric or a label that is not there."""
    assert mistakes(expression)
