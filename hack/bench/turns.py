"""Measures ways to do something by turns, so that disturbances affect all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

_Way = TypeVar("_Way")

Samples = dict[str, list[float]]


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def turned(ways: Sequence[_Way], number: int) -> list[_Way]:
    """Rotate the order, since writes that one way leaves to the disk slow down the next."""
    at = number % len(ways)
    return [*ways[at:], *ways[:at]]


def by_turns(
    ways: Mapping[str, Callable[[], float]], rounds: Iterable[int], *, warm_up: bool = False
) -> Samples:
    """Let each way measure itself in each round; with `warm_up` a round before does not count."""
    found: Samples = {name: [] for name in ways}
    if warm_up:
        for way in ways.values():
            way()
    for number in rounds:
        for name in turned(list(ways), number):
            found[name].append(ways[name]())
    return found
