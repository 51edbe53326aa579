"""The methods that a server serves, by service and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Call:
    """The metadata of a request; its keys are in lower case."""

    metadata: Mapping[str, str]


class Method(Protocol):
    """A method as a server runs it."""

    @property
    def completes(self) -> bool:
        """Whether a call runs to its end although its peer has disconnected."""

    async def run(self, payload: bytes, call: Call) -> bytes:
        """Answer one encoded request; a CryoError becomes the status of the call."""


Services: TypeAlias = Mapping[str, Mapping[str, Method]]
