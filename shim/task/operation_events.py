"""Events of operations on tasks: when they begin, and how they end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shim.model import Event, TaskRef, Timeline, utcnow
from shim.task.context import Publish
from shim.transaction import observers

OPERATIONS = ("checkpoint", "restore", "park", "unpark")
STARTED, FINISHED, FAILED = STAGES = ("started", "finished", "failed")


@contextlib.contextmanager
def published_by(publish: Publish) -> Iterator[None]:
    """Publish the operations of this context, and of the tasks that are created in it."""

    def began(ref: TaskRef, operation: str) -> None:
        publish(_event(ref, operation, STARTED))

    def ended(ref: TaskRef, timeline: Timeline) -> None:
        publish(
            _event(
                ref,
                timeline.operation,
                FAILED if timeline.error else FINISHED,
                image_path=timeline.image_path,
                seconds=timeline.total_s,
                size_bytes=timeline.size_bytes,
                error_kind=timeline.error_kind,
                error=timeline.error,
            )
        )

    with observers.observed_by(began=began, ended=ended):
        yield


def _event(ref: TaskRef, operation: str, stage: str, **fields: object) -> Event:
    return Event(topic=f"/cryo/{operation}-{stage}", ref=ref, fields=fields, at=utcnow())
