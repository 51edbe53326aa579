"""The warnings about tasks that a client of containerd's events API receives.

`ctr events` leaves out what is not of containerd's own types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from threading import Thread

import grpc

from hack.examples import containerd_pb2 as pb
from shim.api.containerd.types.event_pb2 import Envelope
from shim.api.cryo.v1.cryo_pb2 import TaskWarning
from shim.simgpu.waiting import wait_until
from tests.containerd.harness import Containerd

_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
_TOPIC = "/cryo/warning"
_WAIT_S = 60.0


class Warned:
    """The warnings so far of one containerd namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._all: list[TaskWarning] = []
        self.subscribed = False

    def read(self, envelopes: Iterable[Envelope]) -> None:
        """Collect warnings until the stream is cancelled."""
        try:
            for envelope in envelopes:
                self.subscribed = True
                if (envelope.topic, envelope.namespace) == (_TOPIC, self._namespace):
                    self._all.append(TaskWarning.FromString(envelope.event.value))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise

    def everything(self) -> list[str]:
        """Return the warnings about all containers."""
        return [one.text for one in self._all]

    def of(self, name: str) -> list[str]:
        """Return the warnings about a container."""
        return [one.text for one in self._all if one.container_id == name]

    def until(self, name: str) -> str:
        """Wait for a warning about a container; return the only one."""
        wait_until(lambda: bool(self.of(name)), f"a warning about {name}", _WAIT_S)
        (text,) = self.of(name)
        return text


@contextlib.contextmanager
def warnings_of(containerd: Containerd) -> Iterator[Warned]:
    """Collect the warnings about containerd's tasks for the duration of the context."""
    with grpc.insecure_channel(f"unix:{containerd.address}") as channel:
        subscribe = channel.unary_stream(
            _SUBSCRIBE,
            request_serializer=pb.Nothing.SerializeToString,
            response_deserializer=Envelope.FromString,
        )
        stream, found = subscribe(pb.Nothing()), Warned(containerd.namespace)
        reader = Thread(target=found.read, args=(stream,))
        reader.start()

        def subscribed() -> bool:
            containerd.cause_event()
            return found.subscribed

        try:
            wait_until(subscribed, "the subscription", _WAIT_S)
            yield found
        finally:
            stream.cancel()
            reader.join()
