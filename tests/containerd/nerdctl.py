"""nerdctl as users run it, on a node with containers in our runtime.

The CNI plugin is a script, so that neither a bridge nor iptables is needed.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from shim.simgpu.remote import Ran
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.image import REFERENCE

PLUGIN = """#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
ADD)
    echo "ADD $CNI_CONTAINERID" >> LOG
    echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
        "ips": [{"address": "10.88.9.2/24", "interface": 0}], "dns": {}}' ;;
DEL) echo "DEL $CNI_CONTAINERID" >> LOG ;;
esac
"""
NETWORK = {"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "cryonet"}]}


class Nerdctl:
    """nerdctl on one node, with a network of its own."""

    def __init__(self, node: Cryo, path: Path) -> None:
        self.node = node
        self.folder = node.folder / "nerdctl"
        self.calls = self.folder / "calls"
        for name in ("data", "plugins", "networks"):
            (self.folder / name).mkdir(parents=True)
        plugin = self.folder / "plugins" / "cryonet"
        plugin.write_text(PLUGIN.replace("LOG", str(self.calls)), "utf-8")
        plugin.chmod(0o755)
        network = self.folder / "networks" / "bridge.conflist"
        network.write_text(json.dumps(NETWORK), "utf-8")
        self._argv = [
            str(path),
            f"--address={node.address}",
            f"--namespace={node.namespace}",
            f"--data-root={self.folder}/data",
            f"--cni-path={self.folder}/plugins",
            f"--cni-netconfpath={self.folder}/networks",
            "--snapshotter=native",
            "--cgroup-manager=cgroupfs",
        ]

    @property
    def env(self) -> dict[str, str]:
        """The environment, without settings of the host."""
        return {**self.node.env, "NERDCTL_TOML": str(self.folder / "none.toml")}

    def __call__(self, *arguments: str, check: bool = True, text: str = "") -> Ran:
        """Run nerdctl; `text` is its standard input."""
        argv = [*self._argv, *arguments]
        script = f"printf %s {shlex.quote(text)} | {shlex.join(argv)}"
        whole = ["sh", "-c", script] if text else argv
        ran = self.node.place.remote.run(whole, timeout_s=120, env=self.env)
        return self.node.checked(ran, f"nerdctl {' '.join(arguments)}") if check else ran

    def on_terminal(self, *arguments: str) -> Ran:
        """Run nerdctl on a terminal of 40 rows and 100 columns."""
        terminal = [sys.executable, "-m", "tests.containerd.terminal", "--size", "40x100", "--"]
        argv = [*terminal, *self._argv, *arguments]
        ran = self.node.place.remote.run(argv, timeout_s=120, env=self.env)
        return self.node.checked(ran, f"nerdctl {' '.join(arguments)}")

    def begin(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> str:
        """Run a container that keeps running; return its id."""
        how = ("-d", "--runtime", RUNTIME, "--pull", "never", "--name", name, *flags)
        return self("run", *how, REFERENCE, *command).out.strip()

    def status(self, name: str) -> str:
        """Return a container's state from nerdctl."""
        return self("inspect", "--format", "{{.State.Status}}", name).out.strip()
