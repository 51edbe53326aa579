"""A sidecar with the settings of a containerd's shims and with metrics, and its client."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shim.entry.shimbin import paths
from shim.simgpu.remote import Ran
from shim.simgpu.waiting import wait_until
from tests.containerd.cryo import Cryo

_START_S = 60.0


class Beside:
    """A `cryo` client of a sidecar that runs beside containerd."""

    def __init__(self, cryo: Cryo, namespace: str = "") -> None:
        self._cryo = cryo
        self._namespace = namespace or cryo.namespace
        self.socket = f"{cryo.folder}/cryo.sock"
        self.metrics = cryo.folder / "metrics.sock"
        self.log = cryo.folder / "sidecar.log"

    def argv(self, *words: str) -> list[str]:
        """Return the command line of a client."""
        where = ("-a", f"unix://{self.socket}", "-n", self._namespace)
        return [sys.executable, "-m", "shim.entry.cli", *where, *words]

    def __call__(self, *words: str, check: bool = True) -> Ran:
        """Run the client."""
        ran = self._cryo.place.remote.run(self.argv(*words), env=self._cryo.env)
        return self._cryo.checked(ran, f"cryo {' '.join(words)}") if check else ran

    def following(self, path: Path) -> int:
        """Follow events into a file as JSON lines; return the pid."""
        remote = self._cryo.place.remote
        pid = remote.spawn(self.argv("--output", "json", "events"), output=path, env=self._cryo.env)
        wait_until(lambda: "following" in path.read_text("utf-8"), "the events", _START_S)
        return pid

    def ask(self, *words: str) -> Any:
        """Run the client and read the document that it prints."""
        return json.loads(self("--output", "json", *words).out)


@contextlib.contextmanager
def serving(cryo: Cryo, namespace: str = "") -> Iterator[Beside]:
    """Run a sidecar beside containerd; yield a client of it for a namespace."""
    remote, client = cryo.place.remote, Beside(cryo, namespace)
    config = cryo.folder / "sidecar.toml"
    metrics = f'[metrics]\naddress = "unix:{client.metrics}"\n'
    settings = cryo.config.read_text("utf-8")
    events = f'[server]\nevents = "{cryo.address}"'
    config.write_text(f"{settings.replace('[server]', events)}\n{metrics}", "utf-8")
    argv = [sys.executable, "-m", "shim.entry.cli", "serve", "--config", str(config)]
    pid = remote.spawn(argv, output=client.log, env=cryo.env)
    try:
        wait_until(lambda: paths.answers(client.socket), "the sidecar", _START_S)
        yield client
    finally:
        remote.kill(pid, signal.SIGTERM)
        remote.wait(pid, _START_S)
        # The supervisor would wait a minute for another sidecar.
        for supervisor in cryo.processes(f"{cryo.state}/keeper.sock"):
            remote.kill(supervisor)
