"""Parsers of what runsc's commands print, and of the sentry's list of processes."""

from __future__ import annotations

import json
from typing import Any

from shim.errors import RunscError, Unavailable
from shim.model import Stats, Value

_STATUSES = ("creating", "created", "running", "paused", "stopped")
# Errors from data of an unexpected form; OverflowError is int(Infinity).
_STRANGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class GuestProcess(Value):
    """A row of `runsc ps`, with pids of the sandbox's root pid namespace.

    `group` is the process group, 0 if this runsc does not report it (20240729 does not).
    """

    pid: int
    parent: int
    command: str
    group: int = 0


def _unreadable(*, command: str) -> RunscError:
    return RunscError(command, 0, "its output cannot be parsed")


def parse_ps(text: str) -> list[GuestProcess]:
    """Parse the table of `runsc ps` by its header, since its columns differ by version.

    Raises:
        RunscError: it is not such a table; a process's name may contain a line break.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return []
    try:
        columns = lines[0].split()
        at = [columns.index(name) for name in ("PID", "PPID", "CMD")]
        group_at = columns.index("PGID") if "PGID" in columns else None
        rows = [line.split(None, len(columns) - 1) for line in lines[1:]]
        return [
            GuestProcess(
                pid=_count(row[at[0]]),
                parent=_count(row[at[1]]),
                command=row[at[2]],
                group=0 if group_at is None else _count(row[group_at]),
            )
            for row in rows
        ]
    except (ValueError, IndexError) as error:
        raise _unreadable(command="ps") from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def parse_processes(rows: Any) -> list[GuestProcess]:
    """Parse the rows of the sentry's `containerManager.Processes`.

    Raises:
        Unavailable: they are not such rows.
    """
    try:
        return [
            GuestProcess(
                pid=int(row["pid"]),
                parent=int(row["ppid"]),
                command=str(row["cmd"]),
                group=int(row.get("pgid", 0)),
            )
            for row in rows
        ]
    except _STRANGE as error:
        message = "the sentry's list of processes has another form"
        raise Unavailable(message) from error


def parse_status(text: str) -> str:
    """Parse the status from `runsc state`, which prints the OCI state.

    Raises:
        RunscError: the status is missing or unknown.
    """
    try:
        status = json.loads(text)["status"]
    except _STRANGE as error:
        raise _unreadable(command="state") from error
    if status not in _STATUSES:
        raise _unreadable(command="state")
    return str(status)


def parse_stats(text: str) -> Stats:
    """Parse one `runsc events -stats` object, in runc's format.

    Raises:
        RunscError: it is not such an object.
    """
    try:
        return _stats(json.loads(text).get("data", {}))
    except _STRANGE as error:
        raise _unreadable(command="events") from error


def _stats(data: dict[str, Any]) -> Stats:
    cpu = data.get("cpu", {}).get("usage", {})
    memory = data.get("memory", {}).get("usage", {})
    return Stats(
        cpu_usage_ns=int(cpu.get("total", 0)),
        cpu_user_ns=int(cpu.get("user", 0)),
        cpu_system_ns=int(cpu.get("kernel", 0)),
        memory_bytes=int(memory.get("usage", 0)),
        # The sentry reports one figure, the resident memory.
        memory_rss_bytes=int(memory.get("usage", 0)),
        memory_limit_bytes=int(memory.get("limit", 0)),
        pids=int(data.get("pids", {}).get("current", 0)),
    )
