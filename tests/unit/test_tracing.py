"""Traces: the spans of operations, who is whose parent, and that nothing is loaded without them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType

import pytest

from shim.errors import Refused
from shim.host import command_times, trace_context
from shim.model import Phase, Span, TaskRef, Timeline
from shim.tracing import setup
from shim.tracing.operations import Operation, of_timeline

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.memory_traces import traced

REF = TaskRef(namespace="ns", id="a")
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
TIMELINE = Timeline(
    operation="checkpoint",
    task="a",
    began_at=AT,
    total_s=3.0,
    engine="phased",
    image_path="/images/a",
    size_bytes=5,
    spans=(
        Span(phase=Phase.PREFLIGHT, start_s=0.0, duration_s=0.5),
        Span(phase=Phase.PREFLIGHT, name="runsc ps", start_s=0.1, duration_s=0.2),
        Span(phase=Phase.FREEZE, start_s=0.5, duration_s=1.0),
        Span(phase=Phase.LOCK, pid=7, start_s=0.6, duration_s=0.2),
        Span(phase=Phase.SAVE, start_s=1.5, duration_s=1.0, bytes=5),
        Span(phase=Phase.SAVE, name="runsc checkpoint", start_s=1.5, duration_s=1.000001),
        Span(phase=Phase.SAVE, name="late", start_s=2.4, duration_s=0.5),
    ),
)
Spans = dict[str, ReadableSpan]


def shape(one: Operation) -> object:
    """Return the names of an operation and its parts."""
    return (one.name, [shape(part) for part in one.parts])


def test_the_parts_of_an_operation() -> None:
    """Commands and CUDA steps are in their phases; what is in none is in the operation."""
    one = of_timeline(REF, TIMELINE)

    assert shape(one) == (
        "checkpoint",
        [
            ("preflight", [("runsc ps", [])]),
            ("freeze", [("lock process 7", [])]),
            ("save", [("runsc checkpoint", [])]),
            ("late", []),
        ],
    )
    assert one.end_ns - one.start_ns == 3_000_000_000
    assert datetime.fromtimestamp(one.start_ns / 1e9, UTC) == AT
    assert one.attributes["cryo.engine"] == "phased"
    assert "cryo.frozen_s" not in one.attributes


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Trace into memory meanwhile."""
    with traced() as exporter:
        yield exporter


def named(exporter: InMemorySpanExporter) -> Spans:
    """Return the spans that have ended, by their names."""
    return {span.name: span for span in exporter.get_finished_spans()}


def parent(found: Spans, name: str) -> str:
    """Return the name of the parent of a span; its id if that is not ours."""
    above = found[name].parent
    assert above is not None, name
    ours = [one.name for one in found.values() if one.context.span_id == above.span_id]
    return ours[0] if ours else f"{above.span_id:016x}"


async def test_one_trace_through_two_processes(exporter: InMemorySpanExporter) -> None:
    """A call, what answers it, and the operation with its parts, each in the one before."""
    with trace_context.client("call"):
        sent = trace_context.metadata()["traceparent"]

    async def answer() -> None:  # in a context of its own, as in another process
        with trace_context.server("answer", sent):
            await asyncio.create_task(operate())

    async def operate() -> None:
        with command_times.command("runsc state"):
            pass
        trace_context.operation(REF, TIMELINE)

    await asyncio.create_task(answer())

    found = named(exporter)
    assert {name: parent(found, name) for name in found if name != "call"} == {
        "answer": "call",
        "runsc state": "answer",
        "checkpoint": "answer",
        "preflight": "checkpoint",
        "runsc ps": "preflight",
        "freeze": "checkpoint",
        "lock process 7": "freeze",
        "save": "checkpoint",
        "runsc checkpoint": "save",
        "late": "checkpoint",
    }
    assert len({span.context.trace_id for span in found.values()}) == 1
    assert (found["call"].kind, found["answer"].kind) == (SpanKind.CLIENT, SpanKind.SERVER)


def test_the_trace_of_a_caller_goes_on(exporter: InMemorySpanExporter) -> None:
    """The parent is what its traceparent says; one that is not valid begins a new trace."""
    with trace_context.server("known", CALLER):
        pass
    for wrong in ("", "00-0-0-00", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
        with trace_context.server(f"other {wrong}", wrong):
            pass

    found = named(exporter)
    assert parent(found, "known") == CALLER.split("-")[2]
    assert f"{found['known'].context.trace_id:032x}" == CALLER.split("-")[1]
    assert all(one.parent is None for name, one in found.items() if name.startswith("other"))


def test_failures_are_errors(exporter: InMemorySpanExporter) -> None:
    """A call that fails has the class and the text of its error, and so has an operation."""
    with contextlib.suppress(Refused), trace_context.server("call", ""):
        raise Refused("it is so")
    failed = Timeline(
        operation="restore", task="a", began_at=AT, error="no memory", error_kind="CudaError"
    )
    trace_context.operation(REF, failed)

    for name, kind, text in (
        ("call", "Refused", "it is so"),
        ("restore", "CudaError", "no memory"),
    ):
        span = named(exporter)[name]
        assert span.status.status_code is StatusCode.ERROR
        assert (span.status.description, (span.attributes or {})["error.type"]) == (text, kind)


def test_without_a_tracer_the_trace_is_passed_on() -> None:
    """A process without one leaves no gap: what it calls gets its caller's context."""
    assert trace_context.metadata() == {}
    with trace_context.server("x", CALLER):
        assert trace_context.metadata() == {"traceparent": CALLER}
    with trace_context.server("x", "garbage"):
        assert trace_context.metadata() == {}
    assert trace_context.client("x") is trace_context.server("y", "")


def test_without_a_tracer_a_call_costs_two_functions() -> None:
    """One where a request is answered, one where it is forwarded: no span, no text, no context."""
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        with trace_context.server("x", ""):
            trace_context.metadata()
    finally:
        sys.setprofile(before)

    assert called == ["server", "nullcontext.__enter__", "metadata", "nullcontext.__exit__"]


@pytest.mark.parametrize(
    ("environ", "wanted"),
    (
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
    ),
)
def test_when_traces_are_wanted(environ: dict[str, str], wanted: bool) -> None:
    """By the variables of OpenTelemetry's SDK."""
    assert setup.is_wanted(environ) is wanted


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, which gets these variables alone."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


BLOCKED = """
import sys
sys.modules["opentelemetry"] = None
import logging
logging.basicConfig()
from shim.host import trace_context
from shim.tracing import setup
setup.set_up("cryo")
setup.set_up("cryo")
with trace_context.client("x"):
    print(trace_context.metadata())
"""


def test_missing_packages_are_one_warning() -> None:
    """It has the command that installs them, and everything works without."""
    done = run(BLOCKED, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")

    assert (done.returncode, done.stdout) == (0, "{}\n")
    assert done.stderr.count("WARNING") == 1
    assert "pip install 'cryoshim[tracing]'" in done.stderr


def test_an_exporter_that_is_not_supported_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent, and the variable is in the warning."""
    from shim.tracing import tracer

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with caplog.at_level(logging.WARNING):
        tracer.make("cryo")

    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in caplog.text


def test_a_collector_that_does_not_answer_holds_up_nothing() -> None:
    """The exit of a program waits for it for a limited time."""
    code = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
import os
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
from shim.host import trace_context
from shim.tracing import setup
setup.set_up("cryo")
with trace_context.client("x"):
    pass
"""
    done = run(code)

    assert (done.returncode, done.stdout) == (0, "")
