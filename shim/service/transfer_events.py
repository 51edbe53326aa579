"""Events of copies of images: when they begin, and how they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from google.protobuf.any_pb2 import Any as AnyMessage

from shim.api.containerd.types import event_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import class_of
from shim.host.text import printable
from shim.model import utcnow
from shim.service.convert import to_time
from shim.service.operation import Incoming
from shim.task.operation_events import FAILED, FINISHED, STARTED

_TEXT_MAX = 4096


@contextlib.contextmanager
def published(call: Incoming, operation: str, *, image: str, reference: str) -> Iterator[None]:
    """Publish that an image is copied within the block."""
    about = cryo_pb2.OperationEvent(image_path=image, reference=reference)
    _publish(call, f"{operation}-{STARTED}", about)
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        about.error_kind, about.error = class_of(error), printable(str(error), _TEXT_MAX)
        raise
    finally:
        about.seconds = round(time.monotonic() - began, 6)
        _publish(call, f"{operation}-{FAILED if about.error_kind else FINISHED}", about)


def _publish(call: Incoming, name: str, about: cryo_pb2.OperationEvent) -> None:
    hub = call.service.events
    if hub.has_readers:
        packed = AnyMessage(type_url=about.DESCRIPTOR.full_name, value=about.SerializeToString())
        hub.publish(
            event_pb2.Envelope(
                timestamp=to_time(utcnow()),
                namespace=call.namespace,
                topic=f"/cryo/{name}",
                event=packed,
            )
        )
