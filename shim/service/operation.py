"""An operation: one row of the table that drives both servers, both clients and the forwarding."""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from shim.errors import InvalidArgument
from shim.model import Progress, Report, TaskRef, Value
from shim.service import cryo_messages

if TYPE_CHECKING:
    from shim.service.service import Service

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")

# Calls that change a task are bounded by its owner's timeouts: a Start may be a whole restore, a
# Pause may park 80 GiB of GPU memory, a Kill or Delete may resume a parked task first, and each may
# wait for the one before it. This timeout is for an owner that hangs.
OWNER_S = 3600.0
ENDLESS = math.inf
SENT = ""
"""The namespace of a call whose request has a field for it."""


class Owner(enum.Enum):
    """Which process answers an operation."""

    TASK = "the owner of the task that the request names: the sidecar or a shim"
    NEW_TASK = "the server, unless another process has a task of that name"
    SERVER = "the server"


Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends a response of an operation that follows something."""


class Incoming(Value):
    """What a handler receives besides the request."""

    service: Service
    namespace: str
    report: Report
    id: str = ""
    send: Send | None = None

    @property
    def ref(self) -> TaskRef:
        """Return the task that the request names.

        Raises:
            InvalidArgument: the namespace or the id is not valid.
        """
        return TaskRef(namespace=self.namespace, id=self.id)


Handler: TypeAlias = Callable[[Incoming, _Request], Awaitable[_Response]]


class Operation(Value, Generic[_Request, _Response], eq=False):
    """Name, messages, owner, deadline and handler of an RPC.

    `timeout_s`: None for the client's default, `ENDLESS` for no timeout. With `streams` the server
    sends any number of progress updates and one result, each a `response`. With `in_shims` shims
    serve it over ttrpc, without the progress. With `follows` it sends responses through `send` of
    its call until the client ends that, and neither progress nor a result. With `completes` the
    end of a ttrpc connection does not cancel it.
    """

    service: str
    name: str
    request: type[_Request]
    response: type[_Response]
    handler: Handler[_Request, _Response]
    owner: Owner = Owner.TASK
    timeout_s: float | None = None
    streams: bool = False
    in_shims: bool = False
    completes: bool = False
    follows: bool = False

    @property
    def path(self) -> str:
        """Return the path of the RPC, in gRPC's form."""
        return f"/{self.service}/{self.name}"

    def parse(self, payload: bytes) -> _Request:
        """Decode a request.

        Raises:
            InvalidArgument: it cannot be decoded.
        """
        try:
            return self.request.FromString(payload)
        except DecodeError as error:
            message = f"the {self.request.DESCRIPTOR.name} is garbled"
            raise InvalidArgument(message) from error

    def progress(self, progress: Progress) -> bytes:
        """Encode a progress update of an operation that streams."""
        return self.response(progress=cryo_messages.to_progress(progress)).SerializeToString()

    def call(
        self,
        request: _Request,
        read: Callable[[_Response], _Result],
        namespace: str = SENT,
        timeout_s: float | None = None,
    ) -> Call[_Result]:
        """Return a client call of this operation; `read` decodes the response."""
        return Call(
            operation=self,
            request=request,
            read=read,
            namespace=namespace,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
        )

    def stream(
        self, request: _Request, read: Callable[[_Response], _Result], what: str, token: str = ""
    ) -> Stream[_Result]:
        """Return a client call with progress; `read` decodes the last update."""
        return Stream(operation=self, request=request, read=read, what=what, token=token)

    def feed(self, request: _Request, read: Callable[[_Response], _Result]) -> Feed[_Result]:
        """Return a client call that receives responses until it is ended; `read` decodes each."""
        return Feed(operation=self, request=request, read=read)


class Call(Value, Generic[_Result]):
    """A unary call by a client. `timeout_s`: None for its default, `ENDLESS` for no timeout."""

    operation: Operation[Any, Any]
    request: Message
    read: Callable[[Any], _Result]
    namespace: str
    timeout_s: float | None


class Stream(Value, Generic[_Result]):
    """A call by a client that receives progress. Cancel refers to it by `token`."""

    operation: Operation[Any, Any]
    request: Message
    read: Callable[[Any], _Result]
    what: str
    token: str
    namespace: str = SENT


class Feed(Value, Generic[_Result]):
    """A call by a client that receives any number of responses."""

    operation: Operation[Any, Any]
    request: Message
    read: Callable[[Any], _Result]


class Table:
    """The operations of one service of a .proto file, by name."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.operations: dict[str, Operation[Any, Any]] = {}

    def add(
        self,
        request: type[_Request],
        response: type[_Response],
        owner: Owner = Owner.TASK,
        timeout_s: float | None = None,
        *,
        streams: bool = False,
        in_shims: bool = False,
        completes: bool = False,
        follows: bool = False,
    ) -> Callable[[Handler[_Request, _Response]], Operation[_Request, _Response]]:
        """Decorate a handler: add it to the table as the operation of its name."""

        def made(handler: Handler[_Request, _Response]) -> Operation[_Request, _Response]:
            operation = Operation(
                service=self.service,
                name=handler.__name__,
                request=request,
                response=response,
                handler=handler,
                owner=owner,
                timeout_s=timeout_s,
                streams=streams,
                in_shims=in_shims,
                completes=completes,
                follows=follows,
            )
            self.operations[operation.name] = operation
            return operation

        return made
