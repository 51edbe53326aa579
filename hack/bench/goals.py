"""What the figures are to reach, in one run on an idle machine with two cores."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hack.bench.row import Row


class Bound(msgspec.Struct, frozen=True):
    """A row and the most that it may be."""

    key: str
    most: float


class Goal(msgspec.Struct, frozen=True):
    """A goal in words; one of the bounds is enough."""

    text: str
    any_of: tuple[Bound, ...]


def _restore(mib: int) -> Goal:
    bounds = (Bound(f"restore.{mib}.ratio", 1.03), Bound(f"restore.{mib}.added", 10.0))
    return Goal(f"restore of {mib} MiB beside plain runsc, as a ratio or in ms added", bounds)


GOALS = (
    Goal("time frozen of 1 GiB beside `--leave-running`", (Bound("frozen.1024.ratio", 1.05),)),
    Goal(
        "time frozen of 2 GiB with `vm.dirty_bytes` of 128 MiB beside plain runsc",
        (Bound("stage.2048.ratio", 0.75),),
    ),
    Goal(
        "checkpoint of 1 GiB, sealed and durable, beside the plain command and sync",
        (Bound("durable.1024.ratio", 1.25),),
    ),
    *(_restore(mib) for mib in (0, 256, 1024, 4096)),
    Goal(
        "freeze and thaw of 8 processes beside a `runsc exec` for each",
        (Bound("moves.8.ratio", 0.2),),
    ),
    Goal("`ctr run --rm` beside gVisor's shim", (Bound("run.true.ratio", 0.85),)),
    Goal("start and delete of the shim beside gVisor's", (Bound("shim.start-delete.ratio", 0.6),)),
    Goal("memory of a shim at 50 pods beside gVisor's", (Bound("memory.50.ratio", 1.0),)),
)


def reached(goal: Goal, rows: Mapping[str, Row]) -> bool | None:
    """Return whether a goal is reached; None if nothing of it was measured."""
    values = [(rows[bound.key].value, bound.most) for bound in goal.any_of if bound.key in rows]
    known = [value <= most for value, most in values if value is not None]
    return any(known) if known else None


def lines(rows: Mapping[str, Row]) -> list[str]:
    """Return a table of the goals, the measured values and what was reached."""
    found = ["| goal | at most | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        most = " or ".join(f"{bound.most:g}" for bound in goal.any_of)
        values = " or ".join(_shown(rows.get(bound.key)) for bound in goal.any_of)
        mark = {True: "reached", False: "**not reached**", None: ""}[reached(goal, rows)]
        found.append(f"| {goal.text} | {most} | {values} | {mark} |")
    return found


def _shown(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.value:.3g}" if row.value is not None else row.note
