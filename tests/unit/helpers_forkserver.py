"""A fork server of a copy of the package."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from shim.host.supervisor.spawn import Program, spawn

PACKAGE = Path(__file__).parents[2] / "shim"


@contextlib.contextmanager
def a_forkserver(folder: Path) -> Iterator[tuple[Path, int]]:
    """Run the fork server of a copy of the package; give its socket and its pid."""
    shutil.copytree(PACKAGE, folder / "shim", ignore=shutil.ignore_patterns("__pycache__", "bin"))
    path, config = folder / "n.sock", folder / "cryo.toml"
    config.write_text(f'[paths]\nstate = "{folder}/state"\n')
    environment = {**os.environ, "PYTHONPATH": str(folder), "CRYO_CONFIG": str(config)}
    argv = [sys.executable, "-m", "shim.entry.shimbin.forkserver", str(path)]
    null, (reader, writer) = os.open("/dev/null", os.O_RDWR), os.pipe()
    pid = spawn(Program(argv, environment, [null, null, null, writer]))
    try:
        os.close(writer)
        os.close(null)
        assert os.read(reader, 1) == b"", "it listens when it closes its end"
        os.close(reader)
        yield path, pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
