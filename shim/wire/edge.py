"""What every gRPC call of ours goes through: errors become statuses.

Servicers raise `shim.errors` and know no status; other services (health, reflection) pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from shim.wire import failure, status

_log = logging.getLogger(__name__)

# Quoted, because grpc's classes are generic only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Unary: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
_Stream: TypeAlias = "Callable[[Any, Context], AsyncGenerator[Any, None]]"


class Edge(grpc.aio.ServerInterceptor):
    """Puts our error handling around each method of our services."""

    def __init__(self, *services: str) -> None:
        """Take the full names of the services that are ours."""
        self._prefixes = tuple(f"/{service}/" for service in services)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap the method that is about to be called."""
        handler = await continuation(handler_call_details)
        # The stubs know only the blocking server's handlers.
        found: Any = handler
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(self._prefixes):
            return handler
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_stream(method, found.unary_stream), *codec)
        return grpc.unary_unary_rpc_method_handler(_unary(method, found.unary_unary), *codec)


def _unary(method: str, behaviour: _Unary) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            with _logged(method):
                return await behaviour(request, context)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
            await _fail(method, error, context)

    return call


def _stream(method: str, behaviour: _Stream) -> Any:
    # A coroutine that writes, not a generator: a generator that is left suspended when its
    # call is cancelled would roll back only once it is collected.
    async def call(request: Any, context: Context) -> None:
        try:
            with _logged(method):
                async with contextlib.aclosing(behaviour(request, context)) as updates:
                    async for update in updates:
                        await context.write(update)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
            await _fail(method, error, context)

    return call


@contextlib.contextmanager
def _logged(method: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        _log.debug("%s took %.1f ms", method, (time.monotonic() - begun) * 1e3)


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
