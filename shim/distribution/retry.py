"""Repeats what failed for a reason that passes: when, how often, and how long to wait."""

from __future__ import annotations

import email.utils
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from shim.distribution.http_options import HttpOptions
from shim.errors import CryoError

T = TypeVar("T")
_LONGEST_BACKOFF_S = 10.0


class Passing(Exception):
    """A failure that may not happen again.

    `after_s` is how long the server asks to wait; `attempts` is how often at most this kind of
    failure is worth a try, None for the number in the options.
    """

    def __init__(
        self, failure: CryoError, *, after_s: float | None = None, attempts: int | None = None
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.after_s = after_s
        self.attempts = attempts


class Attempts:
    """Counts the attempts of one piece of work."""

    def __init__(self, options: HttpOptions, closed: threading.Event) -> None:
        self._options = options
        self._closed = closed
        self._failed = 0

    def progressed(self) -> None:
        """Begin to count again: the last attempt did a part of the work."""
        self._failed = 0

    def wait(self, passing: Passing) -> None:
        """Wait before the next attempt.

        Raises:
            CryoError: the failure itself, if there is no next attempt.
        """
        self._failed += 1
        most = min(self._options.attempts, passing.attempts or self._options.attempts)
        delay_s = self._delay_s(passing)
        if self._failed >= most or delay_s > self._options.patience_s or self._closed.is_set():
            raise passing.failure from passing
        self._closed.wait(delay_s)

    def _delay_s(self, passing: Passing) -> float:
        if passing.after_s is not None:
            return passing.after_s
        longest = self._options.backoff_s * 2.0 ** (self._failed - 1)
        # Between half and all of it, so that several clients do not come back together.
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
        return min(longest, _LONGEST_BACKOFF_S) * spread


def retrying(work: Callable[[], T], options: HttpOptions, closed: threading.Event) -> T:
    """Do some work, again as long as it fails for a reason that passes."""
    attempts = Attempts(options, closed)
    while True:
        try:
            return work()
        except Passing as passing:
            attempts.wait(passing)


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a Retry-After asks to wait; None if it is missing or malformed."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:10])
    try:
        until = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
