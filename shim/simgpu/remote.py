"""Runs programs in the simulation's namespace, through its agent."""

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
    """A program that has exited; `elapsed_s` is its duration as the agent measured it."""

    status: int
    out: str
    err: str
    elapsed_s: float


class Remote:
    """A client of the agent; thread-safe, since each call opens its own connection."""

    def __init__(self, path: Path, *, launcher: Sequence[str] = ()) -> None:
        """Take the agent's socket, and a command line that each program's is appended to."""
        self._path = path
        self._launcher = tuple(launcher)

    def through(self, *launcher: str) -> Remote:
        """Return a client that starts programs through another, such as nsenter."""
        return Remote(self._path, launcher=(*self._launcher, *launcher))

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Ran:
        """Run a program until it exits.

        Raises:
            DeadlineExceeded: it took longer, and was killed.
            Unavailable: there is no such program, or the simulation has ended.
        """
        started = [*self._launcher, *argv]
        request = {"op": "run", "argv": started, "timeout_s": timeout_s, "cwd": cwd}
        answer = self._ask({**request, "env": dict(env or {})}, timeout_s)
        if answer["timed_out"]:
            message = f"{Path(argv[0]).name} took longer than {timeout_s:g} s"
            raise DeadlineExceeded(message)
        return Ran(answer["status"], answer["out"], answer["err"], answer["elapsed_s"])

    def spawn(
        self, argv: Sequence[str], *, output: Path, env: Mapping[str, str], cwd: str = "/"
    ) -> int:
        """Start a program in the background, append its output to a file, and return its pid."""
        started = [*self._launcher, *argv]
        request = {"op": "spawn", "argv": started, "output": str(output), "cwd": cwd}
        return int(self._ask({**request, "env": dict(env)}, 0)["pid"])

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; a process that has exited is no error."""
        self._ask({"op": "kill", "pid": pid, "signal": int(number)}, 0)

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return the exit status of a program that `spawn` started; None if it is still running."""
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
            message = f"the simulation does not respond: {error}"
            raise Unavailable(message) from error
        if "error" in answer:
            raise Unavailable(str(answer["error"]))
        return answer
