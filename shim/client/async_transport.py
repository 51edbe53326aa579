"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc.aio

from shim.client import calls, channel
from shim.client.base import BaseTransport
from shim.errors import CryoError
from shim.host import trace_context
from shim.model import Report
from shim.service.operation import Call, Feed, Stream

_Value = TypeVar("_Value")


class AsyncTransport(BaseTransport):
    """A connection to a sidecar; any number of calls may run at once."""

    def _open(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=channel.OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close()

    async def _call(self, call: Call[_Value]) -> _Value:
        method = self._channel.unary_unary(
            call.operation.path,
            request_serializer=call.operation.request.SerializeToString,
            response_deserializer=call.operation.response.FromString,
        )
        try:
            with trace_context.client(call.operation.path):
                answer = await method(
                    call.request,
                    timeout=calls.deadline_of(call, self._timeout_s),
                    metadata=channel.metadata_of(call.namespace),
                )
        except grpc.aio.AioRpcError as error:
            raise channel.failure(error, self.address) from error
        return call.read(answer)

    async def _stream(self, stream: Stream[_Value], report: Report | None) -> _Value:
        with trace_context.client(stream.operation.path):
            return await self._streamed(stream, report)

    async def _streamed(self, stream: Stream[_Value], report: Report | None) -> _Value:
        rpc = self._receiving(stream)
        try:
            return await self._follow(stream, rpc, report)
        except grpc.aio.AioRpcError as error:
            raise channel.failure(error, self.address) from error
        except BaseException:
            # A second cancellation stops the wait, not the rollback.
            await asyncio.shield(self._roll_back(stream, report))
            raise
        finally:
            rpc.cancel()

    async def _feed(self, feed: Feed[_Value]) -> AsyncIterator[_Value]:
        rpc = self._receiving(feed)
        try:
            async for answer in rpc:
                yield feed.read(answer)
        except grpc.aio.AioRpcError as error:
            raise channel.failure(error, self.address) from error
        finally:
            rpc.cancel()

    def _receiving(self, call: Stream[Any] | Feed[Any]) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Begin a call that receives any number of responses."""
        method = self._channel.unary_stream(
            call.operation.path,
            request_serializer=call.operation.request.SerializeToString,
            response_deserializer=call.operation.response.FromString,
        )
        return method(call.request, metadata=channel.metadata_of())

    async def _follow(
        self, stream: Stream[_Value], rpc: AsyncIterable[Any], report: Report | None
    ) -> _Value:
        result = None
        async for update in rpc:
            if update.WhichOneof("update") == "progress":
                calls.report_progress(report, update.progress)
            else:
                result = update
        if result is None:
            raise calls.no_result(stream.what)
        return stream.read(result)

    async def _roll_back(self, stream: Stream[Any], report: Report | None) -> None:
        if not stream.token:
            return
        calls.report_rollback(report, f"cancelling the {stream.what}")
        try:
            answer = await self._call(calls.cancel(stream.token))
        except CryoError as error:
            calls.report_rollback(report, f"the outcome of the rollback is unknown: {error}")
        else:
            calls.report_rollback(report, calls.outcome_of(stream.what, answer))
