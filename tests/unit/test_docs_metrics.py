"""docs/metrics.md lists the metrics that there are, with their types and labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from shim.metrics.observer import Observer
from shim.metrics.snapshot import SnapshotCollector
from tests.unit.test_docs import rows

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
HEAD = "| metric | type | labels | meaning |"


def metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return type and labels of each metric, by the name that queries have."""
    registry = CollectorRegistry()
    counted = vars(Observer(registry)).values()
    wrapped = [one for one in counted if isinstance(one, MetricWrapperBase)]
    assert len(wrapped) == len(counted)
    families: list[tuple[Any, tuple[str, ...]]] = [
        (next(iter(one.collect())), one._labelnames) for one in wrapped
    ]
    looked_up: list[Any] = list(SnapshotCollector("1").collect())
    families += [(one, one._labelnames) for one in looked_up]
    return {
        f"{one.name}_total" if one.type == "counter" else one.name: (one.type, tuple(labels))
        for one, labels in families
    }


def test_the_table_is_that_of_the_code() -> None:
    """Each metric has a row, with its type and its labels, and no other has."""
    table = rows(PAGE.read_text("utf-8"), HEAD)

    shown = {
        name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in table
    }
    assert len(shown) == len(table)
    assert shown == metrics()


def test_names_follow_the_conventions() -> None:
    """A prefix, base units at the end, and `_total` of counters alone."""
    for name, (kind, labels) in metrics().items():
        assert name.startswith("cryo_")
        assert name.endswith("_total") == (kind == "counter")
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes_per_second"))
        assert not re.search(r"(_ms|_milliseconds|_kb|_mib|_minutes|_percent)\b", name)
        assert all(re.fullmatch("[a-z_]+", label) for label in labels)
