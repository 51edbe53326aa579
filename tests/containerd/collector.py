"""A collector of traces: a real OTLP/HTTP receiver on the loopback interface."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from shim.model import Value
from shim.simgpu.waiting import wait_until

_PATH = "/v1/traces"
_WAIT_S = 30.0


class Received(Value):
    """A span, with the name of the process that made it."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]
    error: str = ""


class Collector:
    """Takes spans from its start to its end."""

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def env(self) -> dict[str, str]:
        """The variables with which a program sends its spans here, each soon."""
        port = self._server.server_address[1]
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    @property
    def spans(self) -> list[Received]:
        """Return what has come, in the order of their starts."""
        return sorted(self._spans, key=lambda one: one.start_ns)

    def until(self, name: str, service: str, count: int = 1) -> None:
        """Wait for spans of a name."""

        def came() -> bool:
            found = [one for one in self._spans if (one.name, one.service) == (name, service)]
            return len(found) >= count

        wait_until(came, f"{count} spans {name} of {service}", _WAIT_S)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == _PATH:
                    take(body)
                self.send_response(200 if self.path == _PATH else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self._spans += [_received(named["service.name"], span) for span in scope.spans]


def _received(service: str, span: OtlpSpan) -> Received:
    return Received(
        service=service,
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={one.key: one.value.string_value for one in span.attributes},
        error=span.status.message,
    )
