"""A call as from a client in another language, which may disconnect at any moment."""

from __future__ import annotations

from typing import Any

import grpc

from shim.api.cryo.v1 import cryo_pb2, cryo_pb2_grpc
from shim.client import channel
from shim.errors import CryoError
from shim.service import address as addresses
from shim.service.operation import Stream

Outcome = cryo_pb2.CancelResponse.Outcome
_OUTCOME_S = 150.0


class Wire:
    """One streaming call on a connection of its own; `timeout_s` is gRPC's deadline."""

    def __init__(self, address: str, stream: Stream[Any], timeout_s: float | None = None) -> None:
        self._address = address
        self._token = stream.token
        self._channel = grpc.insecure_channel(addresses.target(address), options=channel.OPTIONS)
        method = self._channel.unary_stream(
            stream.operation.path,
            request_serializer=stream.operation.request.SerializeToString,
            response_deserializer=stream.operation.response.FromString,
        )
        self._rpc = method(stream.request, timeout=timeout_s)

    def leave(self) -> None:
        """Cancel the call and close the connection."""
        self._rpc.cancel()
        self._channel.close()

    def outcome(self) -> Outcome.ValueType:
        """Query the outcome of the operation by its token, as a disconnected caller would."""
        with grpc.insecure_channel(
            addresses.target(self._address), options=channel.OPTIONS
        ) as line:
            request = cryo_pb2.CancelRequest(operation=self._token)
            answer = cryo_pb2_grpc.CryoStub(line).Cancel(request, timeout=_OUTCOME_S)
        return answer.outcome

    def error(self) -> CryoError | None:
        """Wait for the end; return the typed error, or None on success."""
        try:
            for _ in self._rpc:
                pass
        except grpc.RpcError:
            return channel.failure(self._rpc, self._address)
        finally:
            self._channel.close()
        return None
