"""What is known of a request with progress when it begins; a watcher follows it from there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias, TypeVar

from google.protobuf.message import Message

from shim.model import Progress, Report, Value

_Work = TypeVar("_Work")
# The fields in which requests name an image.
_IMAGE = ("image_path", "image", "reference", "new")


class Begun(Value):
    """A request with progress that begins.

    `task` is the task that it names, and `image` the image, each empty without one. With
    `forwarded` a shim runs it, and reports no progress.
    """

    method: str
    namespace: str
    task: str = ""
    image: str = ""
    forwarded: bool = False


Watch: TypeAlias = Callable[[Begun], AbstractContextManager[Report]]
"""Is entered for each request; what it gives is called with the progress, from any thread."""


def _drop(_progress: Progress) -> None:
    """Take no notice of the progress."""


def unwatched(_begun: Begun) -> AbstractContextManager[Report]:
    """Watch nothing."""
    return contextlib.nullcontext(_drop)


def begun(method: str, namespace: str, request: Message, *, forwarded: bool) -> Begun:
    """Describe a request that begins."""
    return Begun(
        method=method,
        namespace=namespace,
        task=getattr(request, "id", ""),
        image=next(filter(None, (getattr(request, name, "") for name in _IMAGE)), ""),
        forwarded=forwarded,
    )


def watching(watcher: Report, begin: Callable[[Report], _Work]) -> Callable[[Report], _Work]:
    """Return what begins the same work, and reports its progress to a watcher too."""

    def begin_watched(report: Report) -> _Work:
        def both(progress: Progress) -> None:
            report(progress)
            watcher(progress)

        return begin(both)

    return begin_watched
