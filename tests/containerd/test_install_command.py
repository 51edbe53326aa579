"""`cryo install` and `cryo uninstall` with real daemons, which then run containers, or do not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.remote import Ran
from shim.simgpu.waiting import PACKAGE_ROOT, environment, wait_until
from tests.builds import RunscBuild
from tests.containerd import cryo
from tests.containerd.builds import ContainerdBuild, find_containerd
from tests.containerd.config import Cri
from tests.containerd.conftest import program
from tests.containerd.cri.client import Kubelet
from tests.containerd.cryo import LAUNCHER, Cryo
from tests.containerd.daemon import Daemon
from tests.containerd.docker import Dockerd
from tests.containerd.image import PAUSE
from tests.containerd.place import Place

HANDLER = "cryo"
RUNC = re.compile(r'\[.*\.runtimes\.runc\]\n  runtime_type = ".*"\n')


def run_command(daemon: Daemon, command: str, target: str, config: Path) -> str:
    """Run the command on a daemon's configuration; return its output."""
    where = ("--config", config, "--bin-dir", daemon.folder / "bin")
    shim = ("--shim", daemon.folder / LAUNCHER)
    argv = [sys.executable, "-m", "shim.entry.cli", command, target, *where, *shim, "--yes"]
    done = subprocess.run(
        list(map(str, argv)),
        cwd=PACKAGE_ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Uninstalled(Cryo):
    """A containerd with the CRI plugin whose config.toml has no runtime, as after its package."""

    @property
    def main(self) -> Path:
        """Containerd's config.toml."""
        return self.folder / "config.toml"

    def prepare(self) -> None:
        """Write its configuration and the shim, of which it knows nothing."""
        super().prepare()
        (self.folder / "bin" / LAUNCHER).unlink()
        self.main.write_text(RUNC.sub("", self.main.read_text("utf-8")), "utf-8")

    def install(self, command: str) -> None:
        """Run the command, and restart containerd as it says."""
        said = run_command(self, command, "containerd", self.main)
        assert "systemctl restart containerd" in said
        self.stop()
        self.start()

    def handlers(self, crictl: Path) -> set[str]:
        """Return the runtimes that the CRI plugin knows."""
        argv = [str(crictl), "--runtime-endpoint", f"unix://{self.address}", "info"]
        ran = self.checked(self.place.remote.run(argv, timeout_s=60), "crictl info")
        return set(json.loads(ran.out)["config"]["containerd"]["runtimes"])


@pytest.fixture
def node(
    containerd_build: ContainerdBuild,
    place: Place,
    runsc_new: RunscBuild,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Uninstalled]:
    """Yield a containerd of each line with the CRI plugin and without our runtime."""
    plugin = Cri(sandbox_image=PAUSE)
    with Uninstalled(containerd_build, place, runsc_new.path, cri=plugin) as made:
        made.import_image(archive)
        made.import_image(pause_archive)
        yield made


@pytest.mark.every_combination
def test_containerd_runs_what_is_installed(node: Uninstalled) -> None:
    """`ctr run` and a pod work after the restart; then the file is byte for byte as before."""
    before, crictl = node.main.read_bytes(), program("crictl")
    assert HANDLER not in node.handlers(crictl)

    node.install("install")

    assert node.handlers(crictl) >= {HANDLER, "runc"}
    ran = node.run("box", "echo", "in gVisor")
    assert ran.out == "in gVisor\n"
    with Kubelet(node.address) as kubelet:
        logs = node.folder / "scratch" / "logs"
        pod = kubelet.run_pod("pod", logs, handler=HANDLER, cgroup=node.cgroup)
        assert kubelet.pod_state(pod) == "SANDBOX_READY"
        kubelet.remove_pod(pod)

    node.install("uninstall")

    assert node.main.read_bytes() == before
    assert not (node.folder / "bin" / LAUNCHER).exists()
    assert HANDLER not in node.handlers(crictl)
    assert node.run("box", "true", check=False).status != 0


def test_a_read_only_filesystem_is_refused(place: Place) -> None:
    """Nothing is written, not the link either; the error says where to make the change."""
    folder = place.folder_for("ro")
    (folder / "bin").mkdir()
    place.do("mount", "-t", "tmpfs", "-o", "ro", "none", str(folder))
    config = folder / "containerd" / "config.toml"
    argv = [sys.executable, "-m", "shim.entry.cli", "install", "containerd", "--yes"]
    where = ("--config", str(config), "--bin-dir", str(place.folder / "bin"))
    shim = ("--shim", "/bin/true")

    ran = place.remote.run([*argv, *where, *shim], timeout_s=60, env=environment())

    assert ran.status == 10
    assert f"{config} is on a read-only filesystem; change it where the image" in ran.err
    assert not (place.folder / "bin").exists()
    place.do("umount", str(folder))


@pytest.fixture
def dockerd(
    place: Place, runsc_new: RunscBuild, runc: Path, archive: Path, docker_build: Path
) -> Iterator[Dockerd]:
    """Yield a dockerd that knows no runtime of ours; the shim is beside its directory of links."""
    program("containerd-1.7")
    folder = place.folder_for("di")
    config = cryo.write_config(folder, runsc_new.path, cryo.FLAGS, {})
    with Dockerd(
        docker_build,
        find_containerd("1.7"),
        place,
        programs={"runc": runc},
        env={"CRYO_CONFIG": str(config)},
    ) as made:
        cryo.write_launcher(made.folder)
        made.docker("load", "--input", str(archive))
        yield made


def test_docker_runs_what_is_installed(dockerd: Dockerd) -> None:
    """A reload is enough, for the installation and for its removal."""
    config = dockerd.folder / "daemon.json"
    before = config.read_bytes()
    assert not runs(dockerd)

    said = run_command(dockerd, "install", "docker", config)
    assert "systemctl reload docker" in said
    dockerd.place.remote.kill(dockerd.pid, signal.SIGHUP)
    wait_until(lambda: runs(dockerd), "the runtime", 20.0)

    run_command(dockerd, "uninstall", "docker", config)
    assert config.read_bytes() == before
    dockerd.place.remote.kill(dockerd.pid, signal.SIGHUP)
    wait_until(lambda: not runs(dockerd), "the end of the runtime", 20.0)


def runs(dockerd: Dockerd) -> bool:
    """Return whether Docker runs a container in our runtime."""
    ran: Ran = dockerd.docker(
        "run", "--rm", "--runtime", HANDLER, "--network", "none", "cryobox:1", "true", check=False
    )
    return ran.status == 0
