"""Following what happens: over the wire, by both clients and the command, also by slow readers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import grpc.aio
import msgspec
import pytest

from shim.api.containerd.services.events.v1 import events_pb2
from shim.api.containerd.types import event_pb2
from shim.client import AsyncClient, Client
from shim.entry.cli.app import main
from shim.errors import InvalidArgument, ResourceExhausted, Unavailable
from shim.model import Event, EventView, TaskRef
from shim.service import event_messages, event_views
from shim.service.containerd_events import CONNECTED, ContainerdEvents
from shim.service.endpoint import Endpoint
from shim.service.event_hub import EventHub
from shim.service.server import Server
from shim.service.service import Service
from shim.task import operation_events
from shim.task.name_counters import TOPICS
from tests.wire.conftest import GRACE_S, Sidecar
from tests.wire.fakes import FakeTasks, as_tasks

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 23, 12, 0, 0, 250000, tzinfo=UTC)
SOON_S = 20.0


def exited(task: str, namespace: str = "default", status: int = 0) -> event_pb2.Envelope:
    """Make an event of a task that has exited."""
    fields = {"id": task, "pid": 7, "exit_status": status, "exited_at": AT}
    ref = TaskRef(namespace=namespace, id=task)
    return event_messages.envelope(Event(topic="/tasks/exit", ref=ref, fields=fields, at=AT))


def warned(text: str) -> event_pb2.Envelope:
    """Make a long event."""
    ref = TaskRef(namespace="default", id="a")
    return event_messages.envelope(
        Event(topic="/cryo/warning", ref=ref, fields={"text": text}, at=AT)
    )


@pytest.fixture
async def service(core: FakeTasks) -> Service:
    """Make what answers the operations."""
    return Service(as_tasks(core))


@pytest.fixture
async def server(service: Service, core: FakeTasks, address: str) -> AsyncIterator[Server]:
    """Serve it on the test's own loop."""
    server = Server(service, Endpoint(address))
    await server.start()
    yield server
    core.release.set()
    await server.stop(core.close, GRACE_S)


async def first(feed: AsyncIterator[EventView]) -> EventView:
    """Take the next event."""
    return await asyncio.wait_for(anext(feed), SOON_S)


async def test_an_event_carries_everything(client: AsyncClient, service: Service) -> None:
    """After `following` each event arrives as it was, in order."""
    feed = client.follow()
    following = await first(feed)

    service.events.publish(exited("a", status=0))
    service.events.publish(exited("b", status=137))

    assert (following.kind, following.fields) == ("following", {"containerd": "not followed"})
    one = await first(feed)
    assert (one.at, one.namespace, one.task, one.kind) == (AT, "default", "a", "exit")
    assert one.fields == {
        "id": "a",
        "pid": "7",
        "exit_status": "0",
        "exited_at": "2026-11-23T12:00:00.250000+00:00",
    }
    assert (await first(feed)).fields["exit_status"] == "137"


async def test_filters(client: AsyncClient, service: Service) -> None:
    """One namespace by default, all of them on request, or one task."""
    feeds = [client.follow(), client.follow(everywhere=True), client.follow("b")]
    for feed in feeds:
        await first(feed)

    for envelope in (exited("x", "k8s.io"), exited("a"), exited("b")):
        service.events.publish(envelope)

    assert [(await first(feeds[0])).task for _ in "ab"] == ["a", "b"]
    assert [(await first(feeds[1])).task for _ in "xab"] == ["x", "a", "b"]
    assert (await first(feeds[2])).task == "b"


async def test_a_name_that_is_not_valid(client: AsyncClient) -> None:
    """It is refused before anything is followed."""
    with pytest.raises(InvalidArgument):
        await first(client.follow("a/b"))


async def test_a_client_that_leaves_is_forgotten(client: AsyncClient, service: Service) -> None:
    """Nothing is kept for it any more."""
    feed = client.follow()
    await first(feed)
    assert service.events.has_readers

    await feed.aclose()  # type: ignore[attr-defined]  # it is a generator

    async with asyncio.timeout(SOON_S):
        while service.events.has_readers:  # noqa: ASYNC110 - the hub has no event for it
            await asyncio.sleep(0.01)


async def read_all(feed: AsyncIterator[EventView], into: list[EventView]) -> None:
    """Read until it ends."""
    into.extend([one async for one in feed])


async def test_a_slow_reader_is_given_up(client: AsyncClient, service: Service) -> None:
    """Its queue is bounded; it gets a typed error, and others go on."""
    slow, quick = client.follow(), client.follow()
    await first(slow)
    await first(quick)

    for number in range(6000):  # more than the queue and the buffers of the connection take
        service.events.publish(warned(f"{number} {'x' * 4000}"))
        if number % 50 == 0:
            assert (await first(quick)).kind == "warning"
            for _ in range(49 if number else 0):
                await first(quick)

    read = list[EventView]()
    with pytest.raises(ResourceExhausted, match="too slow") as caught:
        await read_all(slow, read)
    assert caught.value.remedy
    assert len(read) < 6000
    service.events.publish(exited("a"))
    while (await first(quick)).kind != "exit":
        pass


async def test_a_sidecar_that_stops(
    client: AsyncClient, service: Service, server: Server, core: FakeTasks
) -> None:
    """The client gets an error, and the stop does not wait for it."""
    feed = client.follow()
    await first(feed)
    service.waits.close()

    with pytest.raises(Unavailable):
        await first(feed)


def test_every_topic_is_listed() -> None:
    """Each event that is published can be shown: operations, warm starts, and containerd's."""
    ref = TaskRef(namespace="ns", id="a")
    kinds = [
        *(
            f"{one}-{stage}"
            for one in operation_events.OPERATIONS
            for stage in ("started", "failed")
        ),
        *(f"warm-{name}" for name in TOPICS.values()),
    ]
    fields: dict[str, object] = {"name": "llama", "kubernetes_namespace": "", "reason": "none"}
    fields["error"] = "it failed"
    for kind in kinds:
        event = Event(topic=f"/cryo/{kind}", ref=ref, fields=fields, at=AT)
        one = event_views.view(event_messages.envelope(event))
        assert one is not None
        assert (one.kind, one.task, one.namespace) == (kind, "a", "ns")


@pytest.mark.parametrize(
    ("topic", "kind", "value"),
    (
        ("/images/create", "containerd.events.TaskExit", b""),
        ("/tasks/new", "containerd.events.Unknown", b""),
        ("/tasks/exit", "containerd.events.TaskExit", b"\xff"),
    ),
)
def test_what_is_not_listed(topic: str, kind: str, value: bytes) -> None:
    """Events of others, of types that are not known, or that cannot be decoded."""
    envelope = event_pb2.Envelope(topic=topic)
    envelope.event.type_url, envelope.event.value = kind, value

    assert event_views.view(envelope) is None


# -- containerd's events -------------------------------------------------------------------------


class Containerd:
    """Serves Events.Subscribe on a socket; what is put goes to those that have subscribed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.subscribed = asyncio.Event()
        self.queue: asyncio.Queue[event_pb2.Envelope] = asyncio.Queue()
        self._server = grpc.aio.server()
        method = grpc.unary_stream_rpc_method_handler(
            self._subscribe,
            request_deserializer=events_pb2.SubscribeRequest.FromString,
            response_serializer=event_pb2.Envelope.SerializeToString,
        )
        name = "containerd.services.events.v1.Events"
        handler = grpc.method_handlers_generic_handler(name, {"Subscribe": method})
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{path}")

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)
        self.path.unlink(missing_ok=True)

    async def _subscribe(
        self, _request: object, _context: object
    ) -> AsyncIterator[event_pb2.Envelope]:
        self.subscribed.set()
        while True:
            yield await self.queue.get()


def followed(service: Service, path: Path) -> None:
    """Follow a containerd, as the sidecar does."""
    hub = service.events
    hub.follow(ContainerdEvents(f"unix://{path}", hub.publish_other, hub.upstream_is))


async def test_events_of_shims_come_from_containerd(
    client: AsyncClient, service: Service, tmp_path: Path
) -> None:
    """While there is a reader; an event that containerd has from this sidecar is not repeated."""
    followed(service, tmp_path / "c.sock")
    async with Containerd(tmp_path / "c.sock") as containerd:
        assert not containerd.subscribed.is_set()
        feed = client.follow()
        assert (await first(feed)).fields == {"containerd": CONNECTED}
        await asyncio.wait_for(containerd.subscribed.wait(), SOON_S)

        service.events.publish(exited("own"))
        containerd.queue.put_nowait(exited("own"))
        containerd.queue.put_nowait(exited("shims"))

        assert [(await first(feed)).task for _ in "12"] == ["own", "shims"]
    # It is gone.
    gone = await first(feed)
    assert (gone.kind, gone.fields["containerd"].partition(":")[0]) == ("following", "missing")
    async with Containerd(tmp_path / "c.sock"):
        assert (await first(feed)).fields == {"containerd": CONNECTED}


async def test_no_containerd(client: AsyncClient, service: Service, tmp_path: Path) -> None:
    """What is missing is said at once, and the sidecar's own events are there."""
    followed(service, tmp_path / "none.sock")
    feed = client.follow()

    text = (await first(feed)).fields["containerd"]
    service.events.publish(exited("own"))

    assert text == f"missing: there is no socket {tmp_path}/none.sock"
    assert (await first(feed)).task == "own"


# -- the blocking client, and the command ----------------------------------------------------------


@pytest.fixture
def hub(sidecar: Sidecar) -> EventHub:
    """Return the events of the sidecar on a thread."""
    return sidecar.service.events


def test_a_blocking_client(sidecar: Sidecar, hub: EventHub, blocking: Client) -> None:
    """It yields events as they arrive; leaving the loop ends the call."""
    feed = blocking.follow()
    assert next(feed).kind == "following"

    sidecar.do(hub.publish, exited("a"))

    assert next(feed).task == "a"
    feed.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_blocking_client_that_is_slow(sidecar: Sidecar, hub: EventHub, blocking: Client) -> None:
    """It keeps few events itself, so that the sidecar sees that it is slow."""
    feed = blocking.follow()
    next(feed)

    def flood() -> None:
        for number in range(6000):
            hub.publish(warned(f"{number} {'x' * 4000}"))

    sidecar.do(flood)

    with pytest.raises(ResourceExhausted, match="too slow"):
        for _ in feed:
            pass


@pytest.fixture
def command(sidecar: Sidecar) -> list[str]:
    """Return the beginning of a command line."""
    return [sys.executable, "-m", "shim.entry.cli", "-a", sidecar.address]


def reading(argv: list[str]) -> subprocess.Popen[str]:
    """Run the command; its first line is that it follows."""
    return subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    """Read a line of it."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_command_ends_cleanly(sidecar: Sidecar, hub: EventHub, command: list[str]) -> None:
    """Ctrl-C is how it ends: with 0, and without a word."""
    process = reading([*command, "events"])
    assert "following" in line(process)

    sidecar.do(hub.publish, exited("a", status=137))
    shown = line(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SOON_S)

    assert shown.split()[1:4] == ["default", "a", "exit"]
    assert "exit_status=137" in shown
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_as_json(sidecar: Sidecar, hub: EventHub, command: list[str]) -> None:
    """Each line is an object in the documented form; the namespace and the kind choose."""
    process = reading([*command, "-n", "k8s.io", "--output", "json", "events", "--kind", "exit"])
    until_followed(hub)

    sidecar.do(hub.publish, exited("x"))
    sidecar.do(hub.publish, exited("a", "k8s.io"))
    one = line(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SOON_S)

    decoded = msgspec.json.decode(one, type=EventView, strict=True)
    assert (decoded.kind, decoded.task, decoded.namespace) == ("exit", "a", "k8s.io")


def until_followed(hub: EventHub) -> None:
    """Wait until there is a reader."""
    ready = threading.Event()
    while not hub.has_readers:
        ready.wait(0.05)


def test_a_reader_that_has_enough(sidecar: Sidecar, hub: EventHub, command: list[str]) -> None:
    """A closed pipe ends the command without a traceback."""
    with reading([*command, "events"]) as process:
        line(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        for number in range(3):
            sidecar.do(hub.publish, exited(f"a{number}"))
        err = process.stderr.read()

        assert (process.wait(SOON_S), err) == (0, "")


def test_no_sidecar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is the usual error."""
    with pytest.raises(SystemExit) as caught:
        main(["-a", f"unix://{tmp_path}/none.sock", "events"])

    assert caught.value.code not in {0, None}
    assert "no sidecar answers" in capfd.readouterr().err
