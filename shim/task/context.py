"""What all tasks of an owner share: settings, folders, supervisor, runsc, event publisher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shim import failpoints
from shim.config import Config
from shim.host.background import BackgroundTasks
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Event, TaskRef, utcnow
from shim.runsc.client import Runsc
from shim.runsc.open_streams import OpenStreams
from shim.runsc.probe import Capabilities
from shim.runsc.prober import Prober
from shim.task.layout import Layout

Publish = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Shared by all tasks of one owner process."""

    config: Config
    layout: Layout
    supervisor: ProcessSupervisor
    prober: Prober
    publish: Publish
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    streams: OpenStreams = field(default_factory=OpenStreams)

    async def capabilities(self) -> Capabilities:
        """Return what the configured runsc can do."""
        return await self.prober.capabilities()

    async def runsc(self, namespace: str) -> Runsc:
        """Return the runsc of a namespace."""
        root = self.layout.runsc_root(namespace)
        able = await self.capabilities()
        return Runsc(self.config, able, root, self.supervisor, self.streams)

    def publish_event(self, topic: str, ref: TaskRef, **fields: object) -> None:
        """Publish an event of a task."""
        with failpoints.around(f"event.{topic.rpartition('/')[2]}"):
            self.publish(Event(topic=topic, ref=ref, fields=fields, at=utcnow()))
