"""One call of the blocking client, in its own thread.

Ctrl-C raises KeyboardInterrupt at any point of the main thread. Inside gRPC that can leave a lock
held, so that the next call hangs. The main thread therefore waits on a queue, which handles
interrupts, and takes no lock of gRPC while it waits.

A signal that arrives just before the thread blocks is handled only when it runs again. Each wait on
the queue is therefore short.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

_SIGNALS_S = 0.5


@dataclass(frozen=True)
class _End:
    """The end of the call, with an error or without."""

    error: BaseException | None = None


class Exchange:
    """Runs a call and yields its responses as they arrive."""

    def __init__(self, begin: Callable[[], Any], ahead: int | None = None) -> None:
        """Take what makes the call, and how many responses may wait; None is any number."""
        self._begin = begin
        self._places = None if ahead is None else threading.Semaphore(ahead)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rpc: Any = None
        self._unwanted = False

    def answers(self) -> Generator[Any, None, None]:
        """Yield each response; raise the call's error. Closing it early cancels the call."""
        try:
            threading.Thread(target=self._run, name="cryo-call", daemon=True).start()
            while not isinstance(answer := self._next(), _End):
                if self._places is not None:
                    self._places.release()
                yield answer
        finally:
            self.cancel()
        if answer.error is not None:
            raise answer.error

    def _next(self) -> Any:
        """Return what the call's thread puts next, and handle signals meanwhile."""
        while True:
            try:
                return self._inbox.get(timeout=_SIGNALS_S)
            except queue.Empty:
                continue

    def cancel(self) -> None:
        """Cancel the call, now or as soon as it has started."""
        self._unwanted = True
        if self._rpc is not None:
            self._rpc.cancel()

    def _take_place(self) -> None:
        """Wait until one more response may wait, or the call is not wanted any more."""
        while self._places is not None and not self._unwanted:
            if self._places.acquire(timeout=_SIGNALS_S):
                return

    def _run(self) -> None:
        try:
            self._rpc = self._begin()
            if self._unwanted:
                self._rpc.cancel()
            for answer in self._rpc:
                self._take_place()
                self._inbox.put(answer)
        except BaseException as error:  # noqa: BLE001  # raised again in `answers`
            self._inbox.put(_End(error))
        else:
            self._inbox.put(_End())
