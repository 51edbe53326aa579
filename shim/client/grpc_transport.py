"""Blocking calls by gRPC."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from typing import Any

import grpc

from shim.client import channel
from shim.client.calls import CallFailed
from shim.client.exchange import Exchange
from shim.service.operation import Call, Feed, Stream

# Responses that are received before they are taken.
_AHEAD = 64


class GrpcTransport:
    """A gRPC channel to a sidecar; threads may share it. It connects with the first call."""

    def __init__(self, address: str, target: str) -> None:
        """Take the address for messages, and the same in gRPC's form."""
        self._address = address
        self._channel = grpc.insecure_channel(target, options=channel.OPTIONS)

    def close(self) -> None:
        """Close the connection; calls under way end."""
        self._channel.close()

    def unary(self, call: Call[Any], deadline_s: float | None) -> Any:
        """Make a call and return its response.

        Raises:
            CallFailed: it failed.
        """
        answers = self._answers(call, deadline_s, call.namespace)
        with contextlib.closing(answers):
            [answer] = answers
        return answer

    def updates(self, stream: Stream[Any]) -> Generator[Any, None, None]:
        """Make a call that streams, and yield its updates; closing it early cancels the call.

        Raises:
            CallFailed: it failed.
        """
        return self._answers(stream)

    def answers(self, feed: Feed[Any]) -> Generator[Any, None, None]:
        """Make a call that receives responses, and yield them; closing it early ends the call.

        What is not taken waits in the sidecar.

        Raises:
            CallFailed: it failed.
        """
        return self._answers(feed, ahead=_AHEAD)

    def _answers(
        self,
        call: Call[Any] | Stream[Any] | Feed[Any],
        timeout_s: float | None = None,
        namespace: str = "",
        ahead: int | None = None,
    ) -> Generator[Any, None, None]:
        # On the wire a unary response is a stream of one message.
        method = self._channel.unary_stream(
            call.operation.path,
            request_serializer=call.operation.request.SerializeToString,
            response_deserializer=call.operation.response.FromString,
        )
        metadata = channel.metadata_of(namespace)
        begin = functools.partial(method, call.request, timeout=timeout_s, metadata=metadata)
        with contextlib.closing(Exchange(begin, ahead).answers()) as answers:
            try:
                yield from answers
            except grpc.RpcError as error:
                raise CallFailed(channel.failure(error, self._address)) from error
