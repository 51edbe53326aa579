"""Events of copies of images: when they begin, and how they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import class_of
from shim.host.text import printable
from shim.model import utcnow
from shim.service import event_messages
from shim.service.event_messages import TEXT_MAX
from shim.service.operation import Incoming
from shim.task.operation_events import FAILED, FINISHED, STARTED


@contextlib.contextmanager
def published(call: Incoming, operation: str, *, image: str, reference: str) -> Iterator[None]:
    """Publish that an image is copied within the block."""
    about = cryo_pb2.OperationEvent(image_path=image, reference=reference)
    _publish(call, f"{operation}-{STARTED}", about)
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        about.error_kind, about.error = class_of(error), printable(str(error), TEXT_MAX)
        raise
    finally:
        about.seconds = round(time.monotonic() - began, 6)
        _publish(call, f"{operation}-{FAILED if about.error_kind else FINISHED}", about)


def _publish(call: Incoming, name: str, about: cryo_pb2.OperationEvent) -> None:
    hub = call.service.events
    if hub.has_readers:
        hub.publish(event_messages.packed(f"/cryo/{name}", call.namespace, utcnow(), about))
