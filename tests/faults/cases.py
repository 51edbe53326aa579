"""Which runsc and engine a fault is tried on, and how much is tried by default."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import pytest

from shim.model import EngineName
from tests.faults.machine import Case

NEW_PHASED = Case("new", EngineName.PHASED)
NEW_BUILTIN = Case("new", EngineName.BUILTIN)
OLD_PHASED = Case("old", EngineName.PHASED)
# Without cryo-cuda: step by step, as in a pod with GPUs in several containers.
NEW_STEPS = Case("new", EngineName.PHASED, helper=False)
ALL = (NEW_PHASED, NEW_BUILTIN, OLD_PHASED, NEW_STEPS)
PHASED = (NEW_PHASED, OLD_PHASED, NEW_STEPS)

# `make test-faults` tries everything; `make test` a fixed short set, each fault at least once.
EVERYTHING = os.environ.get("CRYO_FAULTS_ALL") == "1"


def on(*cases: Case, more: Sequence[Case] = ()) -> pytest.MarkDecorator:
    """Try a test on these, and on `more` where everything is tried."""
    chosen = [*cases, *(case for case in more if EVERYTHING and case not in cases)]
    return pytest.mark.parametrize("machine", chosen, indirect=True, ids=str, scope="session")


def pairs(
    argument: str, short: Iterable[tuple[Case, str]], every: Iterable[tuple[Case, str]] = ()
) -> pytest.MarkDecorator:
    """Try a test on these pairs of a case and a value, or on `every` one of a longer list."""
    chosen = every if EVERYTHING and every else short
    return pytest.mark.parametrize(
        ("machine", argument),
        [pytest.param(case, value, id=f"{value}-{case}") for case, value in chosen],
        indirect=("machine",),
        scope="session",
    )


def spread(
    argument: str, values: Sequence[str], cases: Sequence[Case] = ALL
) -> pytest.MarkDecorator:
    """Try each value on one of the cases by turns, or everything on everything."""
    turns = [(cases[at % len(cases)], value) for at, value in enumerate(values)]
    return pairs(argument, turns, [(case, value) for case in cases for value in values])
