"""A real dockerd with a directory of its own, driven by the docker client.

It starts the containerd that is on its PATH.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shim.simgpu.remote import Ran
from tests.containerd.builds import ContainerdBuild
from tests.containerd.daemon import Daemon
from tests.containerd.place import Place

_DOCKER_S = 120.0
PROGRAMS = ("dockerd", "docker", "docker-proxy")


class Dockerd(Daemon):
    """A dockerd without networks: no bridge, no iptables. `runtimes` maps names to types."""

    # Docker removes network namespaces minutes later.
    ignored = ("/state/netns/",)

    def __init__(
        self,
        docker: Path,
        containerd: ContainerdBuild,
        place: Place,
        *,
        programs: Mapping[str, Path],
        env: Mapping[str, str] | None = None,
        runtimes: Mapping[str, str] | None = None,
    ) -> None:
        found = {name: docker.with_name(name) for name in PROGRAMS}
        names = ("containerd", "ctr", "containerd-shim-runc-v2")
        found |= {name: containerd.folder / name for name in names}
        super().__init__("docker", place, programs=found | dict(programs), env=env)
        self._runtimes = dict(runtimes or {})

    def prepare(self) -> None:
        """Write daemon.json."""
        text = json.dumps(self.settings(), indent=2)
        (self.folder / "daemon.json").write_text(text, "utf-8")

    def settings(self) -> dict[str, Any]:
        """Return the content of daemon.json."""
        return {
            "hosts": [f"unix://{self.folder}/docker.sock"],
            "data-root": str(self.folder / "root"),
            "exec-root": str(self.folder / "state"),
            "pidfile": str(self.folder / "docker.pid"),
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "storage-driver": "vfs",
            "cgroup-parent": f"/{self.cgroup}",
            # Required by `docker checkpoint`.
            "experimental": True,
            "runtimes": {n: {"runtimeType": kind} for n, kind in self._runtimes.items()},
        }

    def argv(self) -> list[str]:
        """Return dockerd's command line."""
        folder = self.folder
        return [str(folder / "bin/dockerd"), "--config-file", str(folder / "daemon.json")]

    def answers(self) -> bool:
        """Return whether dockerd answers."""
        return self.docker("version", check=False, timeout_s=5).status == 0

    @property
    def env(self) -> dict[str, str]:
        """The environment of dockerd and of its client."""
        ours = {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "scratch"),
            "HOME": str(self.folder / "scratch"),
        }
        return {**super().env, **ours}

    @property
    def containerd_address(self) -> Path:
        """The address of dockerd's containerd; the namespace is `moby`."""
        return self.folder / "state/containerd/containerd.sock"

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = _DOCKER_S) -> Ran:
        """Run the docker client.

        Raises:
            AssertionError: it failed, and `check` is set.
        """
        argv = [str(self.folder / "bin/docker"), *arguments]
        ran = self.place.remote.run(argv, timeout_s=timeout_s, env=self.env)
        return self.checked(ran, f"docker {' '.join(arguments)}") if check else ran

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the output of `docker inspect`."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name).out)
        return found[0]
