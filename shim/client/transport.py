"""The blocking client: no event loop, and Ctrl-C cancels a call cleanly."""

from __future__ import annotations

import contextlib
import functools
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from shim.client import channel
from shim.client.base import BaseTransport
from shim.client.exchange import Exchange
from shim.errors import CryoError
from shim.model import Report
from shim.service.operation import Call, Stream

_Value = TypeVar("_Value")


class Transport(BaseTransport):
    """A blocking connection to a sidecar; threads may share it."""

    def _open(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=channel.OPTIONS)

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
        self._channel.close()

    def _call(self, call: Call[_Value]) -> _Value:
        deadline_s = channel.deadline_of(call, self._timeout_s)
        exchange = self._exchange(call, deadline_s, channel.metadata_of(call))
        try:
            with contextlib.closing(exchange.answers()) as answers:
                [answer] = answers
        except grpc.RpcError as error:
            raise channel.failure(error, self.address) from error
        return call.read(answer)

    def _stream(self, stream: Stream[_Value], report: Report | None) -> _Value:
        try:
            return self._follow(stream, report)
        except grpc.RpcError as error:
            raise channel.failure(error, self.address) from error
        except BaseException:
            self._roll_back(stream, report)
            raise

    def _follow(self, stream: Stream[_Value], report: Report | None) -> _Value:
        result = None
        with contextlib.closing(self._exchange(stream).answers()) as updates:
            for update in updates:
                if update.WhichOneof("update") == "progress":
                    channel.report_progress(report, update.progress)
                else:
                    result = update
        if result is None:
            raise channel.no_result(stream.what)
        return stream.read(result)

    def _exchange(
        self,
        call: Call[Any] | Stream[Any],
        timeout_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Exchange:
        """Prepare a call; on the wire a unary response is a stream of one message."""
        method = self._channel.unary_stream(
            call.operation.path,
            request_serializer=call.operation.request.SerializeToString,
            response_deserializer=call.operation.response.FromString,
        )
        return Exchange(
            functools.partial(method, call.request, timeout=timeout_s, metadata=metadata)
        )

    def _roll_back(self, stream: Stream[Any], report: Report | None) -> None:
        if not stream.token:
            return
        channel.report_rollback(report, f"cancelling the {stream.what}")
        try:
            answer = self._call(channel.cancel(stream.token))
        except CryoError as error:
            channel.report_rollback(report, f"the outcome of the rollback is unknown: {error}")
        else:
            channel.report_rollback(report, channel.outcome_of(stream.what, answer))
