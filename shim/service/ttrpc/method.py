"""The methods that a server serves, by service and name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from shim.errors import InvalidArgument

_Request = TypeVar("_Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Call:
    """The metadata of a request; its keys are in lower case."""

    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Method(Generic[_Request]):
    """One unary method: the class of its request, and the coroutine that answers."""

    request: type[_Request]
    answer: Callable[[_Request, Call], Awaitable[Message]]

    async def run(self, payload: bytes, call: Call) -> bytes:
        """Answer one request.

        Raises:
            InvalidArgument: it cannot be decoded.
        """
        try:
            request = self.request.FromString(payload)
        except DecodeError as error:
            message = f"the {self.request.DESCRIPTOR.name} is garbled"
            raise InvalidArgument(message) from error
        return (await self.answer(request, call)).SerializeToString()


class Runnable(Protocol):
    """A method as a server runs it."""

    async def run(self, payload: bytes, call: Call) -> bytes:
        """Answer one encoded request; a CryoError becomes the status of the call."""


Services: TypeAlias = Mapping[str, Mapping[str, Runnable]]
