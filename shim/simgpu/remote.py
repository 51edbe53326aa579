"""Talks to the simulation's agent: run programs in its namespace."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.errors import DeadlineExceeded, Unavailable
from shim.simgpu.guest import frames

_MARGIN_S = 10.0


@dataclass(frozen=True)
class Ran:
    """A program that has exited. `elapsed_s` is its own time, measured beside it."""

    status: int
    out: str
    err: str
    elapsed_s: float


class Remote:
    """The agent, seen from outside; each call is a connection of its own, so threads may share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Ran:
        """Run a program to its end.

        Raises:
            DeadlineExceeded: it took longer; it was killed.
            Unavailable: there is no such program, or the simulation is gone.
        """
        request = {"op": "run", "argv": list(argv), "timeout_s": timeout_s, "cwd": cwd}
        answer = self._ask({**request, "env": dict(env or {})}, timeout_s)
        if answer["timed_out"]:
            message = f"{Path(argv[0]).name} took longer than {timeout_s:g} s"
            raise DeadlineExceeded(message)
        return Ran(answer["status"], answer["out"], answer["err"], answer["elapsed_s"])

    def spawn(
        self, argv: Sequence[str], *, output: Path, env: Mapping[str, str], cwd: str = "/"
    ) -> int:
        """Start a program that goes on; its output is appended to a file. Return its pid."""
        request = {"op": "spawn", "argv": list(argv), "output": str(output), "cwd": cwd}
        return int(self._ask({**request, "env": dict(env)}, 0)["pid"])

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; gone already is fine."""
        self._ask({"op": "kill", "pid": pid, "signal": int(number)}, 0)

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return the exit status of what `spawn` started, None when it goes on."""
        status = self._ask({"op": "wait", "pid": pid, "timeout_s": timeout_s}, timeout_s)["status"]
        return None if status is None else int(status)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout_s + _MARGIN_S)
                connection.connect(str(self._path))
                frames.send(connection, request)
                answer, _ = frames.receive(connection)
        except (OSError, EOFError, frames.Malformed) as error:
            message = f"the simulation does not answer: {error}"
            raise Unavailable(message) from error
        if "error" in answer:
            raise Unavailable(str(answer["error"]))
        return answer
