"""What is looked up when Prometheus asks: tasks, journals, the store, names and their use."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shim.image.named import ImageRef
from shim.image.named_use import NamedUse
from shim.model import ImageView, TaskView
from shim.task.state_files import OpenJournal

_STARTS = (("hit", "hits"), ("miss", "misses"), ("refusal", "refusals"))
_SAVES = (("saved", "saves"), ("skipped", "skips"), ("failed", "failures"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What was found; a part that could not be looked up is None, and has no samples."""

    version: str
    own_tasks: Sequence[TaskView] | None = None
    shim_tasks: Sequence[TaskView] | None = None
    journals: Sequence[OpenJournal] | None = None
    images: Sequence[ImageView] | None = None
    uses: Sequence[tuple[ImageRef, NamedUse]] | None = None
    succeeded: dict[str, bool] = field(default_factory=dict)


class SnapshotCollector(Collector):
    """Gives the samples of the last snapshot."""

    def __init__(self, version: str) -> None:
        self.snapshot = Snapshot(version=version)

    def collect(self) -> Iterator[Metric]:
        """Yield all families, also those without samples."""
        now = self.snapshot
        yield _gauge(
            "cryo_build_info", "The version of the sidecar.", {(now.version,): 1}, "version"
        )
        yield _gauge(
            "cryo_collector_success",
            "Whether a part of these metrics could be looked up.",
            {(name,): float(ok) for name, ok in now.succeeded.items()},
            "collector",
        )
        yield from _tasks(now)
        yield from _journals(now.journals)
        yield from _images(now.images)
        yield from _names(now.uses or ())


def _tasks(now: Snapshot) -> Iterator[Metric]:
    found: Count[tuple[str, ...]] = Count()
    for owner, views in (("sidecar", now.own_tasks), ("shim", now.shim_tasks)):
        found.update((owner, view.namespace, view.state.value) for view in views or ())
    labels = ("owner", "namespace", "state")
    yield _gauge("cryo_tasks", "Tasks by state, and by which process owns them.", found, *labels)


def _journals(journals: Iterable[OpenJournal] | None) -> Iterator[Metric]:
    oldest_s: dict[tuple[str, ...], float] = {}
    number: Count[tuple[str, ...]] = Count()
    parked = 0
    for one in journals or ():
        if one.is_parked:
            parked += 1
            continue
        number[one.operation,] += 1
        oldest_s[one.operation,] = max(oldest_s.get((one.operation,), 0.0), one.age_s)
    yield _gauge(
        "cryo_open_journals", "Operations that have begun and not ended.", number, "operation"
    )
    yield _gauge(
        "cryo_oldest_open_journal_age_seconds",
        "Time since the oldest operation that has not ended began.",
        oldest_s,
        "operation",
    )
    yield _gauge("cryo_parked_tasks", "Parked tasks.", {} if journals is None else {(): parked})


def _images(images: Sequence[ImageView] | None) -> Iterator[Metric]:
    number = {} if images is None else {(): len(images)}
    size = {} if images is None else {(): sum(view.size_bytes for view in images)}
    yield _gauge("cryo_images", "Images in the store.", number)
    yield _gauge("cryo_images_size_bytes", "Size of the images in the store together.", size)


def _names(uses: Iterable[tuple[ImageRef, NamedUse]]) -> Iterator[Metric]:
    labels = ("namespace", "kubernetes_namespace", "name", "outcome")
    starts = CounterMetricFamily(
        "cryo_warm_starts", "Starts by name: restored, without an image, refused.", labels=labels
    )
    saves = CounterMetricFamily(
        "cryo_warm_saves", "Saves under a name: made, left to another, failed.", labels=labels
    )
    for ref, use in uses:
        where = (ref.namespace, ref.kubernetes_namespace or "", ref.name)
        for outcome, counter in _STARTS:
            starts.add_metric((*where, outcome), getattr(use, counter))
        for outcome, counter in _SAVES:
            saves.add_metric((*where, outcome), getattr(use, counter))
    yield starts
    yield saves


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """Make a gauge of values by their labels' values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
