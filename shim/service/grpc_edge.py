"""Serves the operations over gRPC: handlers get encoded requests, errors become statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from shim.host import log_fields, trace_context
from shim.model import DEFAULT_NAMESPACE, Progress
from shim.service import failure, status
from shim.service.operation import Operation, Table
from shim.service.service import Beside, Service
from shim.service.tables import CRYO, TASK

_log = logging.getLogger(__name__)

NAMESPACE_KEY = "containerd-namespace"

# Quoted, because grpc's classes are generic only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Behaviour: TypeAlias = Callable[[bytes, Context], Awaitable[bytes | None]]


def add_to(server: grpc.aio.Server, service: Service) -> None:
    """Serve every operation of both services."""
    server.add_generic_rpc_handlers(tuple(_handlers(table, service) for table in (TASK, CRYO)))


def _handlers(table: Table, service: Service) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        table.service,
        {name: _handler(operation, service) for name, operation in table.operations.items()},
    )


def _handler(operation: Operation[Any, Any], service: Service) -> Any:
    # The stubs have types for the blocking server's handlers only.
    make: Any = (
        grpc.unary_stream_rpc_method_handler
        if operation.streams
        else grpc.unary_unary_rpc_method_handler
    )
    return make(_with_errors(operation.path, _behaviour(operation)(operation, service)))


def _behaviour(operation: Operation[Any, Any]) -> Callable[..., _Behaviour]:
    if operation.follows:
        return _following
    return _streaming if operation.streams else _unary


def _unary(operation: Operation[Any, Any], service: Service) -> _Behaviour:
    async def answer(payload: bytes, context: Context) -> bytes:
        return await service.unary(operation, payload, _beside(context))

    return answer


def _streaming(operation: Operation[Any, Any], service: Service) -> _Behaviour:
    # A coroutine that writes, not a generator: a generator that is suspended when its call is
    # cancelled would roll back only when it is garbage-collected.
    async def answer(payload: bytes, context: Context) -> None:
        async def write(progress: Progress) -> None:
            await context.write(operation.progress(progress))

        await context.write(await service.streaming(operation, payload, _beside(context), write))

    return answer


def _following(operation: Operation[Any, Any], service: Service) -> _Behaviour:
    async def answer(payload: bytes, context: Context) -> None:
        async def send(message: Message) -> None:
            # It waits while the client does not read.
            await context.write(message.SerializeToString())

        await service.following(operation, payload, _beside(context), send)

    return answer


def _beside(context: Context) -> Beside:
    metadata = dict(context.invocation_metadata() or ())
    return Beside(
        namespace=_text(metadata.get(NAMESPACE_KEY, DEFAULT_NAMESPACE)),
        remaining_s=context.time_remaining(),
        traceparent=_text(metadata.get(trace_context.KEY, "")),
    )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _with_errors(method: str, behaviour: _Behaviour) -> _Behaviour:
    async def call(payload: bytes, context: Context) -> bytes | None:
        with log_fields.request():
            try:
                return await behaviour(payload, context)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
                await _fail(method, error, context)

    return call


async def _fail(method: str, error: BaseException, context: Context) -> NoReturn:
    """End the call with the status of an error."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    ours = failure.of(error, method)
    _log.info("%s: %s: %s", method, type(ours).__name__, status.details_of(ours))
    await context.abort(
        grpc.StatusCode[status.code_of(ours).name],
        status.details_of(ours),
        ((status.ERROR_KEY, status.info_of(ours).SerializeToString()),),
    )
