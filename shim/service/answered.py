"""What is known of a request once it has been answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shim.model import Value


class Answered(Value):
    """A request that was answered, with its time, and the class of its error if it failed.

    `response` is the encoded response, or the last update of a stream; `forwarded` is whether a
    shim gave it.
    """

    service: str
    method: str
    took_s: float
    forwarded: bool = False
    error: str = ""
    response: bytes = b""


Observe: TypeAlias = Callable[[Answered], None]
"""Called once for each request, after its answer is known."""


def ignore(_answered: Answered) -> None:
    """Observe nothing."""
