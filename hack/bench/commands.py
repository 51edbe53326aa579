"""Commands of `cryo` from their start to their end, beside a Python that does nothing."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from hack.bench import command
from hack.bench.effort import Effort
from hack.bench.row import Rows, ms
from hack.bench.turns import by_turns, timed

ROUNDS = 21
_LIMIT_S = 60.0


def measure(address: str, effort: Effort) -> Rows:
    """Measure each by turns, with a sidecar that has a task."""
    cryo = [str(Path(sys.executable).with_name("cryo")), "-a", address]
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "help": [*cryo, "--help"],
        "tasks-ls": [*cryo, "tasks", "ls"],
        "checkpoints-ls": [*cryo, "checkpoints", "ls"],
    }
    ways = {
        name: partial(timed, partial(command.check, argv, limit_s=_LIMIT_S))
        for name, argv in commands.items()
    }
    found = by_turns(ways, effort.rounds(ROUNDS, 0.3), warm_up=True)
    return {f"rpc.command.{name}": ms(spent) for name, spent in found.items()}
