"""The metrics of one sidecar: looked up and encoded for each scrape, one scrape at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from shim import __version__
from shim.config import Config
from shim.errors import CryoError
from shim.host.background import BackgroundTasks
from shim.host.cached import Cached
from shim.host.filecalls import file_call
from shim.image import name_view
from shim.image.named import ImageRef
from shim.image.named_use import NamedUse
from shim.metrics.observer import Observer
from shim.metrics.shim_timelines import ShimTimelines
from shim.metrics.snapshot import Snapshot, SnapshotCollector
from shim.model import ImageView, TaskView, utcnow
from shim.task.state_files import OpenJournal, StateFiles

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# Prometheus waits for 10 s by default.
_PART_S = 8.0

ListTasks = Callable[[str], Awaitable[list[TaskView]]]
"""Returns the tasks of a namespace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """What is looked up for a scrape."""

    own: Cached[Sequence[TaskView]]
    shims: Cached[Sequence[TaskView]]
    journals: Cached[list[OpenJournal]]
    images: Cached[list[ImageView]]
    names: Cached[list[tuple[ImageRef, NamedUse]]]
    timelines: Cached[bool]


class Exporter:
    """What a sidecar counts, and what it looks up when it is asked."""

    def __init__(
        self,
        config: Config,
        own_tasks: ListTasks,
        shim_tasks: ListTasks,
        images: Callable[[], Awaitable[list[ImageView]]],
    ) -> None:
        """Take the settings, and what lists the tasks of each kind of owner, and the images."""
        self._registry = CollectorRegistry()
        self.observer = Observer(self._registry)
        self._looked_up = SnapshotCollector(__version__)
        self._registry.register(self._looked_up)
        ProcessCollector(registry=self._registry)
        self._own_tasks = own_tasks
        self._shim_tasks = shim_tasks
        self._images = images
        self._images_folder = Path(config.paths.images)
        self._files = StateFiles(Path(config.paths.state))
        self._timelines = ShimTimelines(self._files, since=utcnow())
        self._one = asyncio.Lock()
        self._background = BackgroundTasks()
        self._parts = _Parts(
            own=self._part(lambda: self._all(self._own_tasks)),
            shims=self._part(lambda: self._all(self._shim_tasks)),
            journals=self._part(lambda: _read_files(lambda: self._files.open_journals(utcnow()))),
            images=self._part(self._images),
            names=self._part(lambda: _read_files(lambda: name_view.uses(self._images_folder))),
            timelines=self._part(self._count_timelines),
        )

    def _part(self, look_up: Callable[[], Awaitable[_T]]) -> Cached[_T]:
        """Return what looks a part up for each scrape, but not while an earlier look-up hangs."""
        return Cached(look_up, 0.0, self._background, name="a look-up of the metrics")

    async def close(self) -> None:
        """End what is being looked up."""
        await self._background.aclose()

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in a format that the caller accepts."""
        async with self._one:
            await self._look_up()
            encode, content_type = choose_encoder(accept)
            return await asyncio.to_thread(encode, self._registry), content_type

    async def _look_up(self) -> None:
        succeeded: dict[str, bool] = {}

        async def part(name: str, cached: Cached[_T]) -> _T | None:
            found = await _in_time(name, cached)
            succeeded[name] = found is not None
            return found

        parts = self._parts
        own, shims, journals, images, uses, _ = await asyncio.gather(
            part("tasks", parts.own),
            part("shims", parts.shims),
            part("journals", parts.journals),
            part("images", parts.images),
            part("names", parts.names),
            part("timelines", parts.timelines),
        )
        self._looked_up.snapshot = Snapshot(
            version=__version__,
            own_tasks=own,
            shim_tasks=shims,
            journals=journals,
            images=images,
            uses=uses,
            succeeded=dict(sorted(succeeded.items())),
        )

    async def _all(self, list_tasks: ListTasks) -> Sequence[TaskView]:
        namespaces = await _read_files(self._files.namespaces)
        found = await asyncio.gather(*(list_tasks(one) for one in sorted(namespaces)))
        return [view for views in found for view in views]

    async def _count_timelines(self) -> bool:
        """Count what the shims have done since the last scrape."""
        for one in await _read_files(self._timelines.new):
            self.observer.operation(one)
        return True


async def _read_files(work: Callable[[], _T]) -> _T:
    """Read without a deadline: who waits for it has one, and what it finds is not lost."""
    return await file_call(work, doing="read what metrics are made of", deadline_s=None)


async def _in_time(name: str, cached: Cached[_T]) -> _T | None:
    """Return what was looked up; None if that failed, so that the other parts are shown."""
    try:
        async with asyncio.timeout(_PART_S):
            return await cached.get()
    except TimeoutError:  # an OSError too
        _log.warning("the metrics of %s are missing: no answer in %g s", name, _PART_S)
    except (CryoError, OSError) as error:
        _log.warning("the metrics of %s are missing: %s", name, error)
    return None
