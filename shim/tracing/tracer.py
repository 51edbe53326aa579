"""The tracer of a process: OpenTelemetry's SDK, configured by its own variables."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shim import __version__
from shim.errors import class_of
from shim.host import command_times, log_fields, trace_context
from shim.host.text import printable
from shim.model import TaskRef, Timeline
from shim.tracing.operations import Operation, of_timeline

_log = logging.getLogger(__name__)
_CLOSE_S = 3.0
_TEXT_MAX = 1000
_NS_PER_S = 1_000_000_000
# Their names are logged when they are wrong; the rest is read by the SDK.
_EXPORTER, _PROTOCOL = "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL"
# containerd sets OTEL_SERVICE_NAME for itself, in the environment that its shims inherit.
_CONTAINERD = "containerd"
_propagator = TraceContextTextMapPropagator()


def make(service: str) -> OpenTelemetryTracer:
    """Make a tracer that sends spans to what the environment names.

    `service` is the name of the process, unless OTEL_SERVICE_NAME has another one.
    """
    existing = trace.get_tracer_provider()
    if isinstance(existing, TracerProvider):  # that of the program which uses the client
        return OpenTelemetryTracer(existing)
    attributes = {SERVICE_VERSION: __version__}
    if os.environ.get("OTEL_SERVICE_NAME", _CONTAINERD) == _CONTAINERD:
        attributes[SERVICE_NAME] = service
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    exporter = _exporter()
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return OpenTelemetryTracer(provider)


def _exporter() -> SpanExporter | None:
    name = os.environ.get(_EXPORTER, "otlp")
    protocol = os.environ.get(_PROTOCOL, "http/protobuf")
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp" or protocol != "http/protobuf":
        given = f"{_EXPORTER}={name}" if name != "otlp" else f"{_PROTOCOL}={protocol}"
        _log.warning("no traces are sent: %s is not supported: use otlp by http/protobuf", given)
        return None
    return OTLPSpanExporter()


class OpenTelemetryTracer:
    """Makes spans of one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take the provider, which sends them."""
        self._provider = provider
        self._tracer = provider.get_tracer("cryoshim", __version__)

    @contextmanager
    def client(self, name: str) -> Iterator[None]:
        """Make the span of a call to another process, for the block."""
        with self._span(name, SpanKind.CLIENT, contexts.get_current()):
            yield

    @contextmanager
    def server(self, name: str, parent: str) -> Iterator[None]:
        """Make the span of a call that is answered, with the commands that it runs."""
        caller = _propagator.extract({trace_context.KEY: parent}) if parent else contexts.Context()
        with (
            self._span(name, SpanKind.SERVER, caller) as span,
            command_times.observed_by(self._command),
        ):
            try:
                yield
            finally:
                found = {f"cryo.{key}": value for key, value in log_fields.current().items()}
                span.set_attributes(found)

    @contextmanager
    def _span(self, name: str, kind: SpanKind, parent: contexts.Context) -> Iterator[trace.Span]:
        span = self._tracer.start_span(name, parent, kind, {"rpc.method": name})
        token = contexts.attach(trace.set_span_in_context(span, parent))
        try:
            yield span
        except BaseException as error:
            _fail(span, class_of(error), str(error))
            raise
        finally:
            contexts.detach(token)
            span.end()

    def _command(self, name: str, began: float, took_s: float) -> None:
        """Make the span of a command that is part of no operation."""
        start_ns = time.time_ns() - round((time.monotonic() - began) * _NS_PER_S)
        span = self._tracer.start_span(name, start_time=start_ns)
        span.end(start_ns + round(took_s * _NS_PER_S))

    def current(self) -> str:
        """Return the context of the current span."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get(trace_context.KEY, "")

    def operation(self, ref: TaskRef, timeline: Timeline) -> None:
        """Make the spans of an operation that has ended, as a part of the current span."""
        self._add(of_timeline(ref, timeline), contexts.get_current())

    def _add(self, one: Operation, parent: contexts.Context) -> None:
        span = self._tracer.start_span(
            one.name, parent, attributes=one.attributes, start_time=one.start_ns
        )
        if one.error:
            _fail(span, one.error_kind, one.error)
        own = trace.set_span_in_context(span, parent)
        for part in one.parts:
            self._add(part, own)
        span.end(one.end_ns)

    def close(self) -> None:
        """Send what is left, for a limited time: a collector may not answer."""
        sending = threading.Thread(target=self._provider.force_flush, daemon=True)
        sending.start()
        sending.join(_CLOSE_S)


def _fail(span: trace.Span, kind: str, text: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, printable(text, _TEXT_MAX))
