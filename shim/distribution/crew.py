"""The threads of one transfer: they take parts in order, and all end with the first error."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

from shim.distribution.place import Place
from shim.errors import Cancelled

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# How soon a cancellation is noticed while all threads wait for the network.
_POLL_S = 0.1
# Parts that are ready per thread, so that none waits for the next one.
_AHEAD = 2


class Crew:
    """A bounded pool of threads; leave its block with an error, and they end before it does."""

    def __init__(self, jobs: int, place: Place, poll: Callable[[], None], beside: int = 0) -> None:
        """Take how many threads there are for parts, and for other work beside them.

        `poll` is called every moment by the caller's thread; it raises to cancel.
        """
        self._jobs = max(1, jobs)
        self._place = place
        self._poll = poll
        self._halted = threading.Event()
        self._pool = ThreadPoolExecutor(self._jobs + beside, thread_name_prefix="transfer")

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        """Wait for the threads; after an error, end what they do first."""
        if error is not None:
            self._halted.set()
            self._place.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check(self) -> None:
        """Raise if the transfer has failed or was cancelled; for the threads.

        Raises:
            Cancelled: it has.
        """
        if self._halted.is_set():
            message = "the transfer has ended"
            raise Cancelled(message)

    def map(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Yield the results of work on each item, in order; the first error of any is raised."""
        window: deque[Future[_Result]] = deque()
        for item in items:
            self._poll()
            window.append(self._pool.submit(work, item))
            while len(window) >= self._jobs * _AHEAD:
                yield self._first(window)
        while window:
            yield self._first(window)

    def start(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Begin work that is not one of the parts."""
        return self._pool.submit(work)

    def result(self, future: Future[_Result]) -> _Result:
        """Wait for work that was started; return its result or raise its error."""
        while not wait([future], _POLL_S).done:
            self._poll()
        return future.result()

    def _first(self, window: deque[Future[_Result]]) -> _Result:
        """Wait for the first of the window, and raise the error of any other."""
        while not wait([window[0]], _POLL_S).done:
            self._poll()
            for future in window:
                if future.done():
                    future.result()
        return window.popleft().result()
