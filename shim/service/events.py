"""Sends events to containerd over its ttrpc socket, in order, and retries until it accepts them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from shim.api.containerd.services.events.ttrpc.v1 import events_pb2
from shim.api.containerd.types import event_pb2
from shim.errors import CryoError, DeadlineExceeded, InvalidArgument, Unavailable
from shim.host import log_fields
from shim.host.background import BackgroundTasks
from shim.model import Event
from shim.service import event_messages
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.envelope import NAMESPACE_KEY

_log = logging.getLogger(__name__)

SERVICE = "containerd.services.events.ttrpc.v1.Events"

# containerd is down or slow: its events are kept until it is back.
_AWAY = (Unavailable, DeadlineExceeded)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Timeout of an attempt, delays between attempts, and refusals before an event is dropped."""

    try_s: float = 5.0
    first_wait_s: float = 0.05
    longest_wait_s: float = 5.0
    refusals: int = 5


_USUAL = Pace()


class Publisher:
    """Delivers the events of this process, one at a time, at least once each.

    While containerd is down they queue; beyond `capacity` the oldest are dropped.
    """

    def __init__(self, address: str, *, capacity: int = 4096, pace: Pace = _USUAL) -> None:
        """Take containerd's ttrpc address, as in TTRPC_ADDRESS."""
        self._address = address
        self._capacity = capacity
        self._pace = pace
        self._queue: deque[event_pb2.Envelope] = deque()
        self._client: Client | None = None
        self._background = BackgroundTasks()
        self._sending: asyncio.Task[None] | None = None

    def publish(self, event: Event) -> None:
        """Queue an event; never blocks or raises. Call it on the event loop's thread."""
        try:
            envelope = event_messages.envelope(event)
        except InvalidArgument:
            _log.exception("an event of %s was not published", event.ref)
            return
        if len(self._queue) >= self._capacity:
            lost = self._queue.popleft()
            _log.error("dropping the oldest of %d events: %s", self._capacity, lost.topic)
        self._queue.append(envelope)
        if self._sending is None or self._sending.done():
            with log_fields.no_request():  # it also sends the events of later ones
                work = self._send_all()
                self._sending = self._background.start(work, name="events to containerd")

    async def close(self, timeout_s: float) -> None:
        """Deliver queued events for up to `timeout_s` seconds, then disconnect. Call it last."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=timeout_s)
            self._sending.cancel()
            await asyncio.wait({self._sending})
        if self._queue:
            _log.error("%d events were not delivered to containerd", len(self._queue))
        await self._hang_up()

    # -- delivery ------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        while self._queue:
            envelope = self._queue.popleft()
            try:
                await self._deliver(envelope)
            except asyncio.CancelledError:
                self._queue.appendleft(envelope)
                raise
            except Exception:  # noqa: BLE001 - the events after it must still be sent
                _log.exception("internal error: %s was not delivered", envelope.topic)

    async def _deliver(self, envelope: event_pb2.Envelope) -> None:
        """Retry until containerd accepts an event, or has refused it too often."""
        refusals, wait_s = 0, self._pace.first_wait_s
        while True:
            try:
                await self._try(envelope)
            except CryoError as error:
                _log.debug("%s is not delivered yet: %s", envelope.topic, error)
                refusals += not isinstance(error, _AWAY)
                if refusals >= self._pace.refusals or isinstance(error, InvalidArgument):
                    _log.error("containerd refuses %s: %s", envelope.topic, error)
                    return
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._pace.longest_wait_s)

    async def _try(self, envelope: event_pb2.Envelope) -> None:
        client = await self._connected()
        try:
            await client.call(
                SERVICE,
                "Forward",
                events_pb2.ForwardRequest(envelope=envelope),
                Empty,
                timeout_s=self._pace.try_s,
                metadata={NAMESPACE_KEY: envelope.namespace},
            )
        except _AWAY:
            # The connection may be to a containerd that hangs, so the next attempt reconnects.
            await self._hang_up()
            raise

    async def _connected(self) -> Client:
        if self._client is None or self._client.closed:
            await self._hang_up()
            self._client = await Client.connect(self._address, self._pace.try_s)
        return self._client

    async def _hang_up(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with contextlib.suppress(OSError):
                await client.close()
