"""The launcher of shims with a fake fork server, and a script that writes down how it was run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

from hack import build_hook
from shim.entry.shimbin import call, wire

ROOT = Path(build_hook.__file__).parents[1]
NAME = build_hook.SHIM
_SCRIPT = """#!/bin/sh
exec {python} -S -c '
import json, os, sys
json.dump({{
    "words": sys.argv[1:], "cwd": os.getcwd(), "link": os.environ.get("CRYO_LAUNCHER_LINK"),
    "stdin": sys.stdin.buffer.read().hex() if sys.stdin else None,
    "files": len(os.listdir("/proc/self/fd")) - 1,
}}, open(os.environ["SEEN"], "w"))
print("by the script")
sys.exit(7)
' "$0" "$@"
"""
_LIMIT_S = 30.0


@dataclass
class Said:
    status: int
    out: bytes
    err: bytes

    @property
    def by_script(self) -> bool:
        return (self.status, self.out) == (7, b"by the script\n")


def answer(status: int, out: bytes = b"", err: bytes = b"") -> bytes:
    """Encode the answer of a fork server."""
    return wire.RAN_MARK + pack(">III", status, len(out), len(err)) + out + err


def build(folder: Path) -> Path:
    """Build the launcher with sanitizers, short timeouts, and the folder `run` of where it runs."""
    sources = [*(ROOT / "native/launcher").glob("*.c"), ROOT / "native/clock.c"]
    path = folder / NAME
    options = ("-std=c11", "-g", '-DRUN_FOLDER="run"', "-DSTART_MS=400", "-DDELETE_MS=400")
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for more in (checks, ()):
        argv = ["cc", *options, *more, "-o", str(path), *map(str, sources)]
        if subprocess.run(argv, check=False, capture_output=True, timeout=120).returncode == 0:
            break
    return path


def missing() -> str:
    """Return why it cannot be built, empty when it can."""
    return "" if shutil.which("cc") else "there is no C compiler"


class Ground:
    """An installation in a folder, and the folder of the fork server's link."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "run").mkdir()
        self.program = folder / "bin" / NAME
        shutil.copy2(built, self.program)
        self.script = folder / "bin" / f"{NAME}-python"
        self.script.write_text(_SCRIPT.format(python=sys.executable), "utf-8")
        self.script.chmod(0o755)
        self.environment = {
            "PATH": os.environ["PATH"],
            "SEEN": str(folder / "seen.json"),
            "ASAN_OPTIONS": "detect_leaks=0",
        }
        self.calls: list[call.Call] = []

    def popen(self, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe, **how}
        argv = [str(self.program), *words]
        return subprocess.Popen(argv, cwd=self.folder, env=self.environment, **streams)

    def run(self, *words: str, given: bytes = b"") -> Said:
        with self.popen(*words) as running:
            out, err = running.communicate(given, timeout=_LIMIT_S)
        return Said(running.returncode, out, err)

    def shell(self, line: str) -> Said:
        """Run a line of the shell, in which `$0` is the launcher."""
        argv = ["sh", "-c", line, str(self.program)]
        how = {"cwd": self.folder, "env": self.environment, "timeout": _LIMIT_S}
        ran = subprocess.run(argv, check=False, capture_output=True, **how)  # type: ignore[call-overload]
        return Said(ran.returncode, ran.stdout, ran.stderr)

    @property
    def seen(self) -> Mapping[str, Any]:
        """How the script was run the last time."""
        found: Mapping[str, Any] = json.loads((self.folder / "seen.json").read_text("utf-8"))
        return found

    def link(self, **variables: str) -> str:
        """Return the name that the launcher gives its link."""
        before = self.environment
        self.environment = {**before, **variables}
        try:
            assert self.run("delete").by_script
        finally:
            self.environment = before
        return str(self.seen["link"])

    def serve(self, reply: Callable[[socket.socket], None], backlog: int = 16) -> socket.socket:
        """Listen where the link leads; each connection is given to `reply`."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / "run/server"))
        listener.listen(backlog)
        (self.folder / "run" / self.link()).symlink_to("server")
        threading.Thread(target=self._accept, args=(listener, reply), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, reply: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            # The launcher leaves as soon as an answer is none.
            with peer, contextlib.suppress(ConnectionError):
                reply(peer)

    def receive(self, peer: socket.socket) -> None:
        """Receive a request and keep it."""
        head = exactly(peer, wire.MARK_BYTES + 4)
        assert head[: wire.MARK_BYTES] == wire.RUN_MARK
        self.calls.append(call.decode(exactly(peer, int.from_bytes(head[-4:], "big"))))

    def answering(self, *pieces: bytes) -> Callable[[socket.socket], None]:
        """Return what receives a request, sends pieces of an answer, and closes the connection."""

        def reply(peer: socket.socket) -> None:
            self.receive(peer)
            for piece in pieces:
                peer.sendall(piece)

        return reply


def exactly(peer: socket.socket, size: int) -> bytes:
    """Receive this many bytes."""
    found = b""
    while len(found) < size:
        piece = peer.recv(size - len(found))
        assert piece
        found += piece
    return found


def bytewise(data: bytes) -> Sequence[bytes]:
    """Return each byte as a piece."""
    return [data[at : at + 1] for at in range(len(data))]
