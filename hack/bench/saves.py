"""Saves a beating task by several ways: the call, the time frozen, the time until durable."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.bench.beat import Beats
from hack.bench.machine import Machine
from hack.bench.row import Rows, added, ms, ratio
from hack.bench.turns import turned

Way = Callable[[Path], object]


@dataclass
class Saves:
    """The samples of one way, in seconds."""

    total: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)


def save(
    here: Machine, beats: Beats, ways: Mapping[str, Way], rounds: Iterable[int]
) -> dict[str, Saves]:
    """Save by each way in each round, always with a clean page cache."""
    found = {name: Saves() for name in ways}
    for number in rounds:
        for name in turned(list(ways), number):
            path = here.image()
            began = time.perf_counter()
            ways[name](path)
            total = time.perf_counter() - began
            found[name].total.append(total)
            found[name].frozen.append(beats.largest_gap(began))
            began = time.perf_counter()
            sync(path)
            found[name].durable.append(total + time.perf_counter() - began)
    here.image()
    return found


def sync(path: Path) -> None:
    """Write the filesystem of a path to its disk.

    Raises:
        OSError: it failed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def rows(point: str, ours: Saves, plain: Saves, cases: tuple[str, str, str]) -> Rows:
    """Return the rows of a call, of the time frozen and of the time until durable."""
    made: Rows = {}
    kinds = ((ours.total, plain.total), (ours.frozen, plain.frozen), (ours.durable, plain.durable))
    for case, (one, other) in zip(cases, kinds, strict=True):
        made |= pair(f"{case}.{point}", one, other)
    return made


def pair(key: str, ours: list[float], plain: list[float]) -> Rows:
    """Return the rows of what is compared: both, the ratio and what is added."""
    return {
        f"{key}.plain": ms(plain),
        f"{key}.ours": ms(ours),
        f"{key}.ratio": ratio(ours, plain),
        f"{key}.added": added(ours, plain),
    }
