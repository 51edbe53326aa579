"""One call of the blocking client, on a thread of its own.

Ctrl-C raises KeyboardInterrupt wherever the main thread is. Inside gRPC's own locks that leaves
one of them held, and the next call hangs; so the main thread waits on a queue, which
is built for that, and never enters them while it waits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _End:
    """The call is over, with an error or without."""

    error: BaseException | None = None


class Exchange:
    """Begins a call at once and gives its answers as they come."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rpc: Any = None
        self._unwanted = False

    def answers(self) -> Generator[Any, None, None]:
        """Yield each answer; raise what the call raised. Leaving early ends the call."""
        try:
            threading.Thread(target=self._run, name="cryo-call", daemon=True).start()
            while not isinstance(answer := self._inbox.get(), _End):
                yield answer
        finally:
            self.cancel()
        if answer.error is not None:
            raise answer.error

    def cancel(self) -> None:
        """End the call, now or as soon as it has begun."""
        self._unwanted = True
        if self._rpc is not None:
            self._rpc.cancel()

    def _run(self) -> None:
        try:
            self._rpc = self._begin()
            if self._unwanted:
                self._rpc.cancel()
            for answer in self._rpc:
                self._inbox.put(answer)
        except BaseException as error:  # noqa: BLE001  # it is raised again where it is awaited
            self._inbox.put(_End(error))
        else:
            self._inbox.put(_End())
