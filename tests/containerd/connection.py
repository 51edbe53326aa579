"""One gRPC connection of a test to a program under test, over its unix socket."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

Answer = TypeVar("Answer", bound=Message)
Metadata = tuple[tuple[str, str], ...]


class Connection:
    """A context manager with the connection. A call that fails raises grpc.RpcError."""

    def __init__(self, address: Path, *, timeout_s: float, metadata: Metadata = ()) -> None:
        """Take the socket, the timeout of a call, and the metadata of every call."""
        self._channel = grpc.insecure_channel(f"unix:{address}")
        self._timeout_s = timeout_s
        self._metadata = metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._channel.close()

    def ask(self, service: str, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call a method and return its answer."""
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        made: Answer = call(request, timeout=self._timeout_s, metadata=self._metadata)
        return made
