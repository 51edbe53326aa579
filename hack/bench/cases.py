"""The cases of the suite, in the order in which they run, each with its budget in seconds."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast

import msgspec

from hack.bench.effort import Effort
from hack.bench.row import Rows


class Module(Protocol):
    """The module of a case: in hack/bench, under its name."""

    __doc__: str

    def measure(self, runsc: Path, effort: Effort) -> Rows:
        """Measure all rows of the case."""


class Case(msgspec.Struct, frozen=True):
    """A case and its tables: `keys` are the beginnings of the keys of its rows."""

    name: str
    budget_s: float
    keys: tuple[str, ...]

    def module(self) -> Module:
        """Import the module, which may need programs that other cases do not need."""
        return cast("Module", importlib.import_module(f"hack.bench.{self.name}"))


CASES = {
    case.name: case
    for case in (
        Case("checkpoint", 150, ("checkpoint", "frozen", "durable")),
        Case("restore", 450, ("restore", "first", "first-background", "exit")),
        Case("stage", 90, ("stage", "stage-call", "stage-durable")),
        Case("processes", 150, ("moves", "processes")),
        Case("clones", 120, ("clones",)),
        Case("rpc", 30, ("rpc",)),
        Case("cpu", 60, ("cpu",)),
        Case("shims", 60, ("run", "shim", "added")),
        Case("operations", 90, ("operations",)),
        Case("memory", 120, ("memory",)),
        Case("reads", 30, ("reads",)),
        Case("transfer", 130, ("push", "pull")),
        Case("warm", 130, ("warm", "warm-added")),
        Case("warm_pods", 140, ("warm-pods",)),
    )
}
LIMIT_S = 1800.0


def chosen(names: Iterable[str]) -> list[Case]:
    """Return the cases of these names, or all of them without a name.

    Raises:
        KeyError: there is no case of that name.
    """
    return [CASES[name] for name in names] or list(CASES.values())
