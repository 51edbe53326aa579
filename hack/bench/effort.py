"""How long a case may take, and so how many rounds it measures."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

_QUICK_ROUNDS = 2
# Of a median of fewer, nothing can be said.
_LEAST_ROUNDS = 3


class Effort(msgspec.Struct, frozen=True):
    """The effort of one case; `quick` is for a look at whether it works."""

    budget_s: float
    quick: bool = False

    def rounds(self, most: int, share: float = 1.0) -> Iterator[int]:
        """Count rounds, fewer if they take longer than this share of the budget."""
        until = time.monotonic() + self.budget_s * share
        for number in range(min(most, _QUICK_ROUNDS) if self.quick else most):
            if number >= _LEAST_ROUNDS and time.monotonic() > until:
                return
            yield number
