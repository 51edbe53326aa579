"""The blocking client: no event loop, and Ctrl-C cancels a call cleanly.

A call that takes no progress needs no gRPC, and does not load it, where the sidecar serves light
clients.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shim.client import calls, light
from shim.client.base import BaseTransport
from shim.client.calls import CallFailed
from shim.client.light import LightConnection
from shim.errors import CryoError
from shim.host import trace_context
from shim.model import Report
from shim.service.operation import Call, Feed, Stream

if TYPE_CHECKING:
    from shim.client.grpc_transport import GrpcTransport

_Value = TypeVar("_Value")


class Transport(BaseTransport):
    """A blocking connection to a sidecar; threads may share it."""

    def _open(self, target: str) -> None:
        self._target = target
        self._made: GrpcTransport | None = None
        self._making = threading.Lock()
        self._under_way: set[LightConnection] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end."""
        for connection in self._under_way.copy():
            connection.abort()
        if self._made is not None:
            self._made.close()

    def _call(self, call: Call[_Value]) -> _Value:
        with trace_context.client(call.operation.path):
            return self._called(call)

    def _called(self, call: Call[_Value]) -> _Value:
        deadline_s = calls.deadline_of(call, self._timeout_s)
        with light.connected(self.address, deadline_s) as connection:
            if connection is not None:
                return call.read(self._exchange(connection, call))
        try:
            return call.read(self._grpc().unary(call, deadline_s))
        except CallFailed as failed:
            raise failed.error from failed.__cause__

    def _exchange(self, connection: LightConnection, call: Call[Any] | Stream[Any]) -> Any:
        self._under_way.add(connection)
        try:
            return connection.exchange(call)
        finally:
            self._under_way.discard(connection)

    def _grpc(self) -> GrpcTransport:
        with self._making:
            if self._made is None:
                from shim.client.grpc_transport import GrpcTransport

                self._made = GrpcTransport(self.address, self._target)
            return self._made

    def _stream(self, stream: Stream[_Value], report: Report | None) -> _Value:
        with trace_context.client(stream.operation.path):
            return self._streamed(stream, report)

    def _streamed(self, stream: Stream[_Value], report: Report | None) -> _Value:
        try:
            return self._follow(stream, report)
        except CallFailed as failed:
            raise failed.error from failed.__cause__
        except BaseException:
            self._roll_back(stream, report)
            raise

    def _feed(self, feed: Feed[_Value]) -> Iterator[_Value]:
        try:
            with contextlib.closing(self._grpc().answers(feed)) as answers:
                for answer in answers:
                    yield feed.read(answer)
        except CallFailed as failed:
            raise failed.error from failed.__cause__

    def _follow(self, stream: Stream[_Value], report: Report | None) -> _Value:
        if report is None:
            with light.connected(self.address, None) as connection:
                if connection is not None:
                    return stream.read(self._answer(connection, stream))
        result = None
        with contextlib.closing(self._grpc().updates(stream)) as updates:
            for update in updates:
                if update.WhichOneof("update") == "progress":
                    calls.report_progress(report, update.progress)
                else:
                    result = update
        if result is None:
            raise calls.no_result(stream.what)
        return stream.read(result)

    def _answer(self, connection: LightConnection, stream: Stream[Any]) -> Any:
        try:
            return self._exchange(connection, stream)
        except CryoError as error:
            # The call has ended, or its connection, which rolls it back.
            raise CallFailed(error) from error.__cause__

    def _roll_back(self, stream: Stream[Any], report: Report | None) -> None:
        if not stream.token:
            return
        calls.report_rollback(report, f"cancelling the {stream.what}")
        try:
            answer = self._call(calls.cancel(stream.token))
        except CryoError as error:
            calls.report_rollback(report, f"the outcome of the rollback is unknown: {error}")
        else:
            calls.report_rollback(report, calls.outcome_of(stream.what, answer))
