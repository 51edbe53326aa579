"""Events reach containerd in order and whole, whatever containerd does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict

from shim.api.containerd.events import task_pb2
from shim.api.containerd.services.events.ttrpc.v1 import events_pb2
from shim.api.containerd.types import event_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import CryoError, InvalidArgument, Unavailable
from shim.model import Event, Mount, Stdio, TaskRef
from shim.service.events import SERVICE, Pace, Publisher
from shim.service.ttrpc.envelope import NAMESPACE_KEY
from shim.service.ttrpc.method import Call
from tests.wire.helpers_ttrpc import SOON_S, Unary, bind, serving, until

A = TaskRef(namespace="k8s.io", id="a")
AT = datetime(2026, 11, 23, 12, 0, 0, 250000, tzinfo=UTC)
QUICK = Pace(try_s=0.1, first_wait_s=0.001, longest_wait_s=0.01, refusals=3)


@dataclass
class Containerd:
    """Takes events; `errors` are given to the next ones instead, None hangs."""

    taken: list[event_pb2.Envelope] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    errors: list[CryoError | None] = field(default_factory=list)

    async def forward(self, request: events_pb2.ForwardRequest, call: Call) -> Empty:
        """Take one event."""
        if self.errors:
            await self.refuse(self.errors.pop(0))
        self.taken.append(request.envelope)
        self.metadata.append(dict(call.metadata))
        return Empty()

    async def refuse(self, error: CryoError | None) -> None:
        """Fail, or hang."""
        if error is None:
            await asyncio.Event().wait()
        else:
            raise error

    def services(self) -> dict[str, dict[str, Unary[Any]]]:
        """Return what is served on TTRPC_ADDRESS."""
        return {SERVICE: {"Forward": Unary(events_pb2.ForwardRequest, self.forward)}}

    def ids(self) -> list[str]:
        """Return the exec ids of the exits that came."""
        return [task_pb2.TaskExit.FromString(one.event.value).id for one in self.taken]


@pytest.fixture
def containerd() -> Containerd:
    """Make one that is not served yet."""
    return Containerd()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give TTRPC_ADDRESS."""
    return tmp_path / "s"


@pytest.fixture
async def publisher(path: Path) -> AsyncIterator[Publisher]:
    """Make a publisher that is in a hurry."""
    publisher = Publisher(str(path), capacity=100, pace=QUICK)
    yield publisher
    await publisher.close(0)


def event(topic: str, **fields: object) -> Event:
    """Make an event of task a."""
    return Event(topic=topic, ref=A, fields=fields, at=AT)


def ended(id: str) -> Event:
    """Make an exit."""
    return event("/tasks/exit", id=id, pid=7, exit_status=3, exited_at=AT)


EXITED_AT = "2026-11-23T12:00:00.250Z"


@pytest.mark.parametrize(
    ("topic", "fields", "kind", "expected"),
    (
        (
            "/tasks/create",
            {
                "bundle": "/b",
                "rootfs": (Mount(type="bind", source="/r", options=("ro",)),),
                "stdio": Stdio(stdout="/o", terminal=True),
                "checkpoint": "/images/a",
                "pid": 7,
            },
            "TaskCreate",
            {
                "bundle": "/b",
                "rootfs": [{"type": "bind", "source": "/r", "options": ["ro"]}],
                "io": {"stdout": "/o", "terminal": True},
                "checkpoint": "/images/a",
                "pid": 7,
            },
        ),
        ("/tasks/start", {"pid": 7}, "TaskStart", {"pid": 7}),
        (
            "/tasks/delete",
            {"pid": 7, "exit_status": 3, "exited_at": AT},
            "TaskDelete",
            {"pid": 7, "exitStatus": 3, "exitedAt": EXITED_AT},
        ),
        (
            "/tasks/exit",
            {"id": "e", "pid": 7, "exit_status": 3, "exited_at": AT},
            "TaskExit",
            {"id": "e", "pid": 7, "exitStatus": 3, "exitedAt": EXITED_AT},
        ),
        ("/tasks/oom", {}, "TaskOOM", {}),
        ("/tasks/exec-added", {"exec_id": "e"}, "TaskExecAdded", {"execId": "e"}),
        (
            "/tasks/exec-started",
            {"exec_id": "e", "pid": 7},
            "TaskExecStarted",
            {"execId": "e", "pid": 7},
        ),
        ("/tasks/paused", {}, "TaskPaused", {}),
        ("/tasks/resumed", {}, "TaskResumed", {}),
        (
            "/tasks/checkpointed",
            {"checkpoint": "/images/a"},
            "TaskCheckpointed",
            {"checkpoint": "/images/a"},
        ),
    ),
)
async def test_each_topic(
    publisher: Publisher,
    containerd: Containerd,
    path: Path,
    topic: str,
    fields: dict[str, Any],
    kind: str,
    expected: dict[str, Any],
) -> None:
    """An event arrives with its moment, namespace, topic and bare type, and all its fields."""
    async with serving(containerd.services(), path):
        publisher.publish(event(topic, **fields))
        await publisher.close(SOON_S)
    (envelope,) = containerd.taken
    message = getattr(task_pb2, kind).FromString(envelope.event.value)

    assert envelope.event.type_url == f"containerd.events.{kind}"
    assert (envelope.namespace, envelope.topic) == ("k8s.io", topic)
    assert envelope.timestamp.ToDatetime(tzinfo=UTC) == AT
    assert MessageToDict(message) == {"containerId": "a", **expected}
    assert containerd.metadata[0][NAMESPACE_KEY] == "k8s.io"


async def test_a_warning_has_a_message_of_our_own(
    publisher: Publisher, containerd: Containerd, path: Path
) -> None:
    """It is no event of a task's life, so it is not below /tasks/, and its text is printable."""
    async with serving(containerd.services(), path):
        publisher.publish(event("/cryo/warning", text="no GPU\x1b[2J"))
        await publisher.close(SOON_S)
    (envelope,) = containerd.taken
    message = cryo_pb2.TaskWarning.FromString(envelope.event.value)

    assert (envelope.topic, envelope.event.type_url) == ("/cryo/warning", "cryo.v1.TaskWarning")
    assert message.container_id == "a"
    assert message.text.startswith("no GPU")
    assert "\x1b" not in message.text


async def test_every_topic_has_a_message() -> None:
    """No event of the core is without a message."""
    import re

    folder = Path(__file__).parents[2] / "shim" / "task"
    sources = "".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    from shim.service import event_messages

    assert set(re.findall(r'"(/(?:tasks|cryo)/[a-z-]+)"', sources)) <= set(
        event_messages._FACTORIES
    )


async def test_in_order_across_restarts(
    publisher: Publisher, containerd: Containerd, path: Path
) -> None:
    """Events that come before, between and after containerd's lives arrive once, in order."""
    for number in range(10):
        publisher.publish(ended(str(number)))
    for life in (1, 2, 3):
        async with serving(containerd.services(), path):
            publisher.publish(ended(f"during {life}"))
            await until(lambda: publisher._sending and publisher._sending.done())
        publisher.publish(ended(f"after {life}"))
    async with serving(containerd.services(), path):
        await publisher.close(SOON_S)

    assert containerd.ids() == [
        *(str(number) for number in range(10)),
        *(f"{when} {life}" for life in (1, 2, 3) for when in ("during", "after")),
    ]


async def test_a_containerd_that_hangs(
    publisher: Publisher, containerd: Containerd, path: Path
) -> None:
    """A try that takes too long is repeated, and does not hold up publishers."""
    containerd.errors = [None, Unavailable("starting"), None]
    async with serving(containerd.services(), path):
        for name in ("x", "y"):
            publisher.publish(ended(name))
        await publisher.close(SOON_S)

    assert containerd.ids() == ["x", "y"]


async def test_a_containerd_that_is_replaced(
    publisher: Publisher, containerd: Containerd, path: Path
) -> None:
    """A containerd that hangs on to its connection does not keep events from the next one."""
    with bind(path) as listener:
        publisher.publish(ended("x"))
        hung, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
    path.unlink()
    async with serving(containerd.services(), path):
        await publisher.close(SOON_S)
    hung.close()

    assert containerd.ids() == ["x"]


async def test_a_refused_event_holds_up_no_other(
    publisher: Publisher, containerd: Containerd, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that containerd refuses is given up, soon if it is wrong, and the next one sent."""
    odd = CryoError("odd")
    containerd.errors = [InvalidArgument("wrong"), odd, odd, odd, odd]
    async with serving(containerd.services(), path):
        for name in ("wrong", "odd", "fine"):
            publisher.publish(ended(name))
        await publisher.close(SOON_S)

    assert containerd.ids() == ["fine"]
    assert caplog.text.count("containerd refuses /tasks/exit") == 2


async def test_an_event_that_comes_as_the_last_one_is_sent(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is published the moment the queue has run dry is not left lying."""
    sent: list[str] = []
    loop = asyncio.get_running_loop()

    async def deliver(envelope: event_pb2.Envelope) -> None:
        if not sent:
            # Runs when the sender has ended and before that is reported.
            loop.call_soon(publisher.publish, ended("second"))
        sent.append(task_pb2.TaskExit.FromString(envelope.event.value).id)

    monkeypatch.setattr(publisher, "_deliver", deliver)
    publisher.publish(ended("first"))

    await until(lambda: sent == ["first", "second"])


async def test_the_oldest_are_given_up(
    publisher: Publisher, containerd: Containerd, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While containerd is away the queue is bounded, and the newest events are kept."""
    for number in range(150):
        publisher.publish(ended(str(number)))
    async with serving(containerd.services(), path):
        await publisher.close(SOON_S)

    # One whose answer was late is sent again.
    assert list(dict.fromkeys(containerd.ids())) == [str(number) for number in range(50, 150)]
    assert "dropping the oldest of 100 events" in caplog.text


async def test_nothing_to_reach(publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    """Without containerd, closing ends on time and says what was not taken."""
    for name in ("x", "y"):
        publisher.publish(ended(name))
    async with asyncio.timeout(SOON_S):
        await publisher.close(0.05)

    assert "2 events were not delivered" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    (
        event("/tasks/novelty"),
        event("/tasks/exit", id="e"),
        event("/tasks/start", pid=-1),
        event("/tasks/start", pid="7"),
        event("/tasks/create", bundle="/b", rootfs=(), stdio=None, checkpoint="", pid=1),
    ),
)
async def test_a_wrong_event_fails_no_other(
    publisher: Publisher, caplog: pytest.LogCaptureFixture, wrong: Event
) -> None:
    """An event that makes no message is logged; the operation that published it goes on."""
    caplog.set_level(logging.ERROR)
    publisher.publish(wrong)

    assert "was not published" in caplog.text
    assert not publisher._queue
