"""One trace over the wire: from both clients over both transports to a sidecar and a shim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shim.client import AsyncClient, Client
from shim.service.endpoint import Endpoint
from shim.service.server import Server
from shim.service.service import Service
from shim.service.shims import Shims
from tests.wire.conftest import GRACE_S
from tests.wire.fakes import FakeTasks, as_tasks
from tests.wire.test_shims import a_shim, ref

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.memory_traces import traced

CHECKPOINT = "/cryo.v1.Cryo/Checkpoint"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Trace into memory meanwhile: all three are in this process."""
    with traced() as exporter:
        yield exporter


@pytest.fixture
async def forwarding(address: str, tmp_path: Path) -> AsyncIterator[str]:
    """Serve a sidecar that has the task of a shim; return its address."""
    core = FakeTasks()
    service = Service(as_tasks(core), shims=Shims(tmp_path / "state", rollback_s=1.0))
    server = Server(service, Endpoint(address))
    await server.start()
    async with a_shim(tmp_path / "state", "a") as shim:
        shim.hold = False
        yield address
    await server.stop(core.close, GRACE_S)


def line(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """Return the spans of one call, each the parent of the next."""
    spans = [one for one in exporter.get_finished_spans() if one.name == name]
    by_parent = {one.parent.span_id if one.parent else 0: one for one in spans}
    found, at = list[ReadableSpan](), 0
    while at in by_parent:
        found.append(by_parent[at])
        at = by_parent[at].context.span_id
    assert len(found) == len(spans)
    return found


THREE = [SpanKind.CLIENT, SpanKind.SERVER, SpanKind.SERVER]


async def test_a_call_with_progress(forwarding: str, exporter: InMemorySpanExporter) -> None:
    """The client's span is the parent of the sidecar's, and that of the shim's."""
    async with AsyncClient(forwarding, ref("a").namespace) as client:
        await client.checkpoint("a")

    spans = line(exporter, CHECKPOINT)
    assert [one.kind for one in spans] == THREE
    assert len({one.context.trace_id for one in spans}) == 1
    assert (spans[-1].attributes or {})["cryo.task"] == "a"


async def test_a_blocking_client_over_both_transports(
    forwarding: str, exporter: InMemorySpanExporter
) -> None:
    """A call without progress goes over ttrpc, one with progress over gRPC."""

    def work() -> None:
        with Client(forwarding, ref("a").namespace) as client:
            client.timelines("a")
            client.checkpoint("a")

    await asyncio.to_thread(work)

    for name in ("/cryo.v1.Cryo/TaskTimelines", CHECKPOINT):
        assert [one.kind for one in line(exporter, name)] == THREE


async def test_what_lasts_has_no_span(forwarding: str, exporter: InMemorySpanExporter) -> None:
    """A call that takes as long as its task or its client is not traced by the server."""
    async with AsyncClient(forwarding, ref("a").namespace) as client:
        feed = client.follow()
        await anext(feed)
        await feed.aclose()  # type: ignore[attr-defined]  # it is a generator

    assert exporter.get_finished_spans() == ()
