"""The runsc and engine that a fault test runs with; `tests.matrix` selects which of them run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest

from shim.model import EngineName
from tests.faults.machine import Case

T = TypeVar("T")

NEW_PHASED = Case("new", EngineName.PHASED)
NEW_BUILTIN = Case("new", EngineName.BUILTIN)
OLD_PHASED = Case("old", EngineName.PHASED)
# Without cryo-cuda: step by step, as in a pod with GPUs in several containers.
NEW_STEPS = Case("new", EngineName.PHASED, helper=False)
ALL = (NEW_PHASED, NEW_BUILTIN, OLD_PHASED, NEW_STEPS)
PHASED = (NEW_PHASED, OLD_PHASED, NEW_STEPS)


def on(*cases: Case) -> pytest.MarkDecorator:
    """Run a test with each of these."""
    return pytest.mark.parametrize("machine", cases, indirect=True, ids=str, scope="session")


def pairs(argument: str, chosen: Iterable[tuple[Case, str]]) -> pytest.MarkDecorator:
    """Run a test with these pairs of a case and a value."""
    return pytest.mark.parametrize(
        ("machine", argument),
        [pytest.param(case, value, id=f"{value}-{case}") for case, value in chosen],
        indirect=("machine",),
        scope="session",
    )


def spread(
    argument: str, values: Iterable[str], cases: Iterable[Case] = ALL
) -> pytest.MarkDecorator:
    """Run a test with each value in each case."""
    chosen = tuple(cases)
    return pairs(argument, [(case, value) for value in values for case in chosen])


def again(entries: Iterable[T], kind: Callable[[T], object]) -> Iterator[tuple[T, bool]]:
    """Yield each entry, and whether one before it is of the same kind."""
    met: set[object] = set()
    for entry in entries:
        yield entry, kind(entry) in met
        met.add(kind(entry))
