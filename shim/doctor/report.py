"""The result of an examination, as `--output json` prints it, and its exit code."""

from __future__ import annotations

from collections.abc import Sequence

from shim import __version__
from shim.finding import Area, Finding, Level
from shim.model import Value

# The number of the form below: it changes when a field is removed or changes its meaning.
FORMAT = 1

EXIT_CODES = {
    Area.SETTINGS: 20,
    Area.SYSTEM: 21,
    Area.RUNSC: 22,
    Area.GPU: 23,
    Area.CONTAINERD: 24,
    Area.STORAGE: 25,
    Area.SOCKETS: 26,
    Area.LEFTOVERS: 27,
    Area.TASK: 28,
    Area.CHECK: 29,
}


class Report(Value):
    """All findings; `level` is the worst, `repaired` what `--repair` did, a line per action."""

    format: int
    version: str
    level: Level
    exit_code: int
    seconds: float
    repaired: tuple[str, ...]
    findings: tuple[Finding, ...]


def report(findings: Sequence[Finding], seconds: float, repaired: Sequence[str] = ()) -> Report:
    """Make the report of these findings."""
    return Report(
        format=FORMAT,
        version=__version__,
        level=_worst(findings),
        exit_code=exit_code(findings),
        seconds=round(seconds, 3),
        repaired=tuple(repaired),
        findings=tuple(findings),
    )


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the code of the first class, in the order of `Area`, that has a failure; else 0."""
    failed = {one.area for one in findings if one.level is Level.FAILURE}
    return next((EXIT_CODES[area] for area in Area if area in failed), 0)


def _worst(findings: Sequence[Finding]) -> Level:
    levels = {one.level for one in findings}
    return next((one for one in reversed(Level) if one in levels), Level.OK)
