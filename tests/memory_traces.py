"""Traces into memory; a test that imports this needs OpenTelemetry's SDK."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shim.host import trace_context
from shim.tracing.tracer import OpenTelemetryTracer


@contextlib.contextmanager
def traced() -> Iterator[InMemorySpanExporter]:
    """Trace this process into memory within the block."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_context.install(OpenTelemetryTracer(provider))
    yield exporter
    trace_context.close()
