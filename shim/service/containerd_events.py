"""Follows the events of a containerd: those that shims have published there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from shim.api.containerd.services.events.v1 import events_pb2
from shim.api.containerd.types import event_pb2
from shim.host.background import BackgroundTasks

_log = logging.getLogger(__name__)
_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
CONNECTED = "connected"
_CONNECT_S = 2.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0

Receive = Callable[[event_pb2.Envelope], None]
State = Callable[[str], None]


class ContainerdEvents:
    """One subscription, from `start` to `stop`; a containerd that was away is followed again."""

    def __init__(self, address: str, receive: Receive, state: State) -> None:
        """Take containerd's gRPC socket, and what gets events and the state of the connection."""
        self._path = Path(address.removeprefix("unix://"))
        self._receive = receive
        self._state = state
        self._wait_s = _FIRST_WAIT_S
        self._background = BackgroundTasks()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._following = self._background.start(self._follow(), name="events of containerd")

    async def stop(self) -> None:
        """End the subscription."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    async def _follow(self) -> None:
        while True:
            why = await self._follow_once()
            self._state(f"missing: {why}")
            _log.debug("the events of containerd are missing: %s", why)
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    async def _follow_once(self) -> str:
        """Follow until that is no longer possible; return why."""
        if not self._path.is_socket():
            return f"there is no socket {self._path}"
        try:
            async with asyncio.timeout(None) as limit:
                await self._subscribed(limit)
        except TimeoutError:
            return f"{self._path} does not answer"
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name.lower()
        return "containerd has ended the stream"

    async def _subscribed(self, limit: asyncio.Timeout) -> None:
        """Receive events until containerd ends that."""
        limit.reschedule(asyncio.get_running_loop().time() + _CONNECT_S)
        async with grpc.aio.insecure_channel(f"unix:{self._path}") as channel:
            await channel.channel_ready()
            subscribe = channel.unary_stream(
                _SUBSCRIBE,
                request_serializer=events_pb2.SubscribeRequest.SerializeToString,
                response_deserializer=event_pb2.Envelope.FromString,
            )
            call = subscribe(events_pb2.SubscribeRequest())
            limit.reschedule(None)
            self._wait_s = _FIRST_WAIT_S
            self._state(CONNECTED)
            async for envelope in call:
                self._receive(envelope)
