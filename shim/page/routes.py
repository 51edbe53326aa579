"""What is at which path, as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shim.errors import CryoError, NotFound
from shim.model import ImageView, TaskRef, Timeline
from shim.page import overview
from shim.page.feed import Feed
from shim.page.guard import HEALTH
from shim.page.reads import Reads
from shim.page.rendering import Templates, timeline_parts
from shim.page.status import status_of
from shim.timeline.svg import svg

_IMAGES_MAX = 500
_IMAGES_S = 1.0
_PICTURE = "image/svg+xml"
# An SVG that is opened by itself has its style inside.
_PICTURE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": _PICTURE}


class Pages:
    """The pages of one sidecar; each is complete without scripts."""

    def __init__(self, reads: Reads) -> None:
        """Take what the sidecar knows."""
        self._reads = reads
        self._templates = Templates(reads.host, reads.store)
        self.feed = Feed(self.live)
        files = resources.files("shim.page") / "static"
        self._static = {name: (files / name).read_bytes() for name in _STATIC}
        self.app = Starlette(
            routes=[
                Route("/", self._overview),
                Route("/events", self._events),
                Route("/images", self._images),
                Route("/images/{digest}", self._image),
                Route("/images/{digest}/timeline.svg", self._image_picture),
                Route("/tasks/{namespace}/{task}", self._task),
                Route("/tasks/{namespace}/{task}/{number:int}.svg", self._task_picture),
                Route("/doctor", self._doctor),
                Route("/static/{name}", self._static_file),
                Route(HEALTH, self._health),
            ],
            exception_handlers={CryoError: self._failed, HTTPException: self._refused},
        )

    async def live(self) -> Mapping[str, str]:
        """Render the parts of the overview that change; one that fails says so."""
        parts = {}
        for name, values in (
            ("operations", self._operations),
            ("tasks", self._tasks),
            ("recent", self._recent),
        ):
            try:
                parts[name] = self._templates.render(f"{name}.html", **await values())
            except CryoError as error:
                parts[name] = self._templates.render("failure.html", error=error)
        return parts

    async def _operations(self) -> dict[str, Any]:
        journals = await self._reads.journals.get()
        return {"operations": overview.operations(self._reads.operations.running, journals)}

    async def _tasks(self) -> dict[str, Any]:
        journals, history = await self._reads.journals.get(), await self._reads.history.get()
        views = await self._reads.tasks.get()
        images = await self._images_at_hand()
        table = overview.task_table(views, journals, history, images)
        return {"table": table, "digests": _digests(images)}

    async def _recent(self) -> dict[str, Any]:
        history = await self._reads.history.get()
        return {"recent": history.last, "digests": _digests(await self._images_at_hand())}

    async def _images_at_hand(self) -> list[ImageView]:
        """Return the images; none if the store does not answer: the tasks are shown without."""
        with contextlib.suppress(CryoError, TimeoutError):
            async with asyncio.timeout(_IMAGES_S):
                return await self._reads.images.get()
        return []

    async def _overview(self, _request: Request) -> Response:
        return self._page("overview", parts=await self.live())

    async def _events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        self.feed.check_room()
        return _EventStream(self.feed)

    async def _images(self, _request: Request) -> Response:
        views = await self._reads.images.get()
        shown, left_out = views[:_IMAGES_MAX], max(len(views) - _IMAGES_MAX, 0)
        return self._page("images", images=shown, left_out=left_out)

    async def _image(self, request: Request) -> Response:
        found = await self._reads.image(request.path_params["digest"])
        timeline = await self._reads.image_timeline(found.view)
        return self._page(
            "image",
            view=found.view,
            manifest=found.manifest,
            verified=found.verified,
            timeline=timeline_parts(timeline),
        )

    async def _image_picture(self, request: Request) -> Response:
        found = await self._reads.image(request.path_params["digest"])
        return _picture(await self._reads.image_timeline(found.view))

    async def _task(self, request: Request) -> Response:
        ref = _ref(request)
        view = await self._reads.task(ref)
        timelines = [timeline_parts(one) for one in await self._reads.timelines(ref)]
        numbered = list(enumerate(timelines))[::-1]
        return self._page(
            "task", view=view, timelines=numbered, digests=_digests(await self._images_at_hand())
        )

    async def _task_picture(self, request: Request) -> Response:
        timelines = await self._reads.timelines(_ref(request))
        number = request.path_params["number"]
        if number >= len(timelines):
            message = f"the task has {len(timelines)} timelines"
            raise NotFound(message, remedy="load the page of the task again")
        return _picture(timelines[number])

    async def _doctor(self, _request: Request) -> Response:
        return self._page("doctor", report=await self._reads.doctor.get())

    async def _static_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404)
        return Response(self._static[name], media_type=_STATIC[name])

    @staticmethod
    async def _health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _failed(self, _request: Request, error: Exception) -> Response:
        """Answer with an error of ours: what failed, and what to do."""
        assert isinstance(error, CryoError)  # noqa: S101 - it is registered for these
        status = status_of(error)
        return self._page("error", status, error=error)

    async def _refused(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
        found = CryoError("there is no such page", remedy="begin at the overview")
        return self._page("error", error.status_code, error=found)

    def _page(self, name: str, status: int = 200, **values: Any) -> Response:
        text = self._templates.render(f"{name}.html", page=name, **values)
        return HTMLResponse(text, status_code=status)


class _EventStream(StreamingResponse):
    """Sends the events of a feed until the client is gone; then nothing of it is left."""

    def __init__(self, feed: Feed) -> None:
        super().__init__((), media_type="text/event-stream")
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._feed.reading() as events:
            self.body_iterator = events
            await super().__call__(scope, receive, send)


def _digests(images: Iterable[ImageView]) -> dict[str, str]:
    """Return the digests of images by their paths, for links."""
    return {view.path: view.digest for view in images if view.digest}


def _ref(request: Request) -> TaskRef:
    return TaskRef(namespace=request.path_params["namespace"], id=request.path_params["task"])


def _picture(timeline: Timeline) -> Response:
    return Response(svg([timeline], None), media_type=_PICTURE, headers=_PICTURE_POLICY)
