"""The calls by which the page looks something up; none of them changes anything."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shim.config import Config
from shim.doctor.examination import examine
from shim.doctor.host import Host
from shim.doctor.report import Report, report
from shim.errors import NotFound
from shim.host.background import BackgroundTasks
from shim.host.cached import Cached
from shim.host.filecalls import file_call
from shim.image.manifest import Manifest
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache, identities
from shim.model import ImageView, TaskRef, TaskView, Timeline, Value, utcnow
from shim.page.history import History, TimelineFiles
from shim.page.operations import Change, Operations
from shim.service import timeline_operations
from shim.service.address import parse
from shim.service.operation import Call
from shim.service.service import Beside, Service
from shim.task.state_files import OpenJournal, StateFiles

_T = TypeVar("_T")
_READ_S = 10.0
# Of each kind: what is asked of others, such as shims, is asked less often than what is at hand.
_FILES_AGE_S = 0.25
_TASKS_AGE_S = 3.0
_IMAGES_AGE_S = 3.0
_DOCTOR_AGE_S = 15.0
_DOCTOR_S = 60.0
# What fails is not asked for again soon, by however many browsers.
_FAILED_S = 30.0


class ImageDetails(Value):
    """An image with its manifest; `verified` is whether this host knows that it is intact."""

    view: ImageView
    manifest: Manifest
    verified: bool


class Reads:
    """What the sidecar knows, for the page."""

    def __init__(
        self, config: Config, settings_path: str, service: Service, operations: Operations
    ) -> None:
        """Take the settings, the sidecar's service, and the requests that it answers."""
        self._config = config
        self._settings_path = settings_path
        self._service = service
        self.operations = operations
        self._background = BackgroundTasks()
        self._files = StateFiles(Path(config.paths.state))
        self._timelines = TimelineFiles(self._files)
        self.journals = self._cached(self._open_journals, _FILES_AGE_S)
        self.history = self._cached(self._history, _FILES_AGE_S)
        self.tasks = self._cached(self._list_tasks, _TASKS_AGE_S)
        self.images = self._cached(service.core.images.list, _IMAGES_AGE_S)
        self.doctor = self._cached(self._examine, _DOCTOR_AGE_S)
        self.host = platform.node()
        self.store = config.paths.images

    def _cached(self, look_up: Callable[[], Awaitable[_T]], age_s: float) -> Cached[_T]:
        return Cached(
            look_up, age_s, self._background, failed_s=_FAILED_S, name="a look-up of the page"
        )

    async def close(self) -> None:
        """End what is being looked up."""
        await self._background.aclose()

    def change(self, change: Change) -> None:
        """Look up again what an operation has changed."""
        self.journals.forget()
        if change is Change.TURN:
            for cached in (self.history, self.tasks, self.images):
                cached.forget()

    async def task(self, ref: TaskRef) -> TaskView:
        """Return one task.

        Raises:
            NotFound: there is none of this name.
        """
        for view in await self._service.list_tasks(ref.namespace):
            if view.id == ref.id:
                return view
        message = f"there is no task {ref} in namespace {ref.namespace}"
        raise NotFound(message, remedy="see the list of tasks")

    async def timelines(self, ref: TaskRef) -> list[Timeline]:
        """Return the timelines of a task, oldest first."""
        found: list[Timeline] = await self._ask(timeline_operations.timelines(ref), ref.namespace)
        return found

    async def image(self, digest: str) -> ImageDetails:
        """Return an image by its digest.

        Raises:
            NotFound: there is none.
        """
        for view in await self.images.get():
            if digest and view.digest == digest:
                return await _read(partial(self._look_at, view))
        message = "there is no image with this digest"
        raise NotFound(message, remedy="see the list of images: it may have been removed")

    async def image_timeline(self, view: ImageView) -> Timeline:
        """Return the timeline of an image."""
        return await self._service.core.images.timeline(view.path, "default")

    def _look_at(self, view: ImageView) -> ImageDetails:
        image = Path(view.path)
        manifest = read_manifest(image)
        known = VerifyCache(Path(self._config.paths.verified)).known(manifest)
        found = identities(image)
        verified = manifest.sealed and all(
            one.name in found and known.covers(one.name, found[one.name]) for one in manifest.files
        )
        return ImageDetails(view=view, manifest=manifest, verified=verified)

    async def _open_journals(self) -> list[OpenJournal]:
        return await _read(lambda: self._files.open_journals(utcnow()))

    async def _history(self) -> History:
        ended = self.operations.ended
        return await _read(lambda: self._timelines.history(ended))

    async def _list_tasks(self) -> list[TaskView]:
        namespaces = await _read(self._files.namespaces)
        found = await asyncio.gather(*map(self._service.list_tasks, sorted(namespaces)))
        return [view for views in found for view in views]

    async def _ask(self, call: Call[Any], namespace: str) -> Any:
        """Make a call of a client, which a shim may answer."""
        payload = call.request.SerializeToString()
        answer = await self._service.unary(call.operation, payload, Beside(namespace=namespace))
        return call.read(call.operation.response.FromString(answer))

    async def _examine(self) -> Report:
        """Run `cryo doctor` in a thread: its checks were made for a process of their own."""
        host = Host(
            config=self._config,
            settings_path=self._settings_path,
            socket=Path(parse(self._config.server.address)),
        )
        began = asyncio.get_running_loop().time()
        findings = await file_call(
            lambda: asyncio.run(examine(host)), doing="examine the host", deadline_s=_DOCTOR_S
        )
        return report(findings, asyncio.get_running_loop().time() - began)


async def _read(work: Callable[[], _T]) -> _T:
    return await file_call(work, doing="read what the page shows", deadline_s=_READ_S)
