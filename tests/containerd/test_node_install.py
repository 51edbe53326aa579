"""The installer of Kubernetes nodes, with a real containerd that runs pods by what it installs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.kubernetes.node import bundle, image, runsc
from hack.kubernetes.node.install import Installer
from hack.kubernetes.node.paths import SHIM, Node
from shim.errors import FailedPrecondition
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd import cryo
from tests.containerd.builds import ContainerdBuild
from tests.containerd.config import Cri
from tests.containerd.conftest import build_of
from tests.containerd.cri.client import Kubelet, Pod, Wanted
from tests.containerd.harness import Containerd
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.place import Place

# The native snapshotter copies the whole image, which has a runsc.
_COPY_S = 240.0
# The CRI plugin of 1.6 takes no path of a shim.
LINES = ("1.7", pytest.param("2.1", marks=pytest.mark.long), "2.4")


@pytest.fixture(scope="session")
def first_bundle(tmp_path_factory: pytest.TempPathFactory, runsc_new: RunscBuild) -> Path:
    """Return a bundle of the interpreter that runs the tests, with a runsc."""
    folder = tmp_path_factory.mktemp("bundle") / "first"
    bundle.write(folder, runsc_new.path)
    return folder


@pytest.fixture(scope="session")
def next_bundle(first_bundle: Path) -> Path:
    """Return a bundle of another version, with another build of runsc."""
    folder = first_bundle.with_name("next")
    shutil.copytree(first_bundle, folder, copy_function=os.link)
    (folder / bundle.VERSION).unlink()
    (folder / bundle.VERSION).write_text("next-version\n", "utf-8")
    (program,) = runsc.programs(folder)
    data = program.read_bytes()
    program.unlink()
    program.write_bytes(data + b"\n")
    program.chmod(0o755)
    return folder


class InstalledNode(Containerd):
    """A containerd whose config.toml knows no runtime of ours, with the installer of its node.

    It is the installer's daemon as well; `restarts` counts.
    """

    restarts = 0

    def prepare(self) -> None:
        """Write containerd's config.toml, and the settings to install."""
        self._imports = [self.folder / "conf.d/*.toml"] if self.build.numbers >= (2, 4) else []
        super().prepare()

    @property
    def env(self) -> dict[str, str]:
        """The environment of containerd and of the shims, with the path of their settings."""
        return {**super().env, "CRYO_CONFIG": str(self.node.settings)}

    @property
    def node(self) -> Node:
        """The paths of the node; those of this test are the same in its mount namespace."""
        folder = self.folder
        config = folder / "config.toml"
        return Node(Path("/"), folder / "opt", config, folder / "etc/cryo.toml")

    def restart(self) -> None:
        """Restart containerd."""
        self.restarts += 1
        self.stop()
        self.start()

    def is_ending(self) -> bool:
        """Return False."""
        return False


@pytest.fixture
def node(
    containerd_build: ContainerdBuild, place: Place, archive: Path, pause_archive: Path
) -> Iterator[InstalledNode]:
    """Yield a containerd of each line with the CRI plugin and without our runtime."""
    with InstalledNode(containerd_build, place, cri=Cri(sandbox_image=PAUSE)) as made:
        made.import_image(archive)
        made.import_image(pause_archive)
        yield made


def run_pod(node: InstalledNode, kubelet: Kubelet, name: str) -> tuple[Pod, str]:
    """Run a pod of the installed runtime with one container."""
    logs = node.folder / "scratch" / name
    pod = kubelet.run_pod(name, logs, handler="cryo", cgroup=node.cgroup)
    return pod, kubelet.run(pod, Wanted("one", REFERENCE, ["sleep", "1000"]))


def versions_in_use(node: InstalledNode) -> set[str]:
    """Return the versions from which the shims of the node run."""
    links = [Path(f"/proc/{pid}/exe").resolve() for pid in node.processes("shimbin.forkserver")]
    return {path.parents[1].name for path in links}


def sandboxes(node: InstalledNode) -> Counter[str]:
    """Return the versions whose runsc the processes of the node run from, with their number."""
    found: Counter[str] = Counter()
    for link in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):  # it has exited
            path = link.readlink()
            if path.name == "runsc" and path.is_relative_to(node.node.prefix):
                found[path.relative_to(node.node.prefix).parts[1]] += 1
    return found


def answers(kubelet: Kubelet, container: str) -> bool:
    """Return whether an exec in a container works."""
    return kubelet.exec(container, "echo", "in").stdout == b"in\n"


@pytest.mark.parametrize("containerd_build", LINES, indirect=True)
def test_install_upgrade_and_remove(
    node: InstalledNode, first_bundle: Path, next_bundle: Path
) -> None:
    """Pods run by what is installed, with its runsc, through an upgrade and a removal."""
    settings = cryo.write_config(node.folder / "scratch", Path(runsc.NAME), cryo.FLAGS, {})
    before = node.node.containerd.read_text("utf-8")
    version = (first_bundle / bundle.VERSION).read_text("utf-8").strip()
    # The place has no systemd; test_node_systemd.py has the sidecar.
    installer = Installer(node.node, node, sidecar=False)

    done = [*installer.install(first_bundle, settings)]
    assert node.restarts == 1, done
    with Kubelet(node.address) as kubelet:
        old, container = run_pod(node, kubelet, "old")
        assert answers(kubelet, container)
        assert versions_in_use(node) == {version}
        before_upgrade = sandboxes(node)
        assert set(before_upgrade) == {version}

        assert len([*installer.install(next_bundle, settings)]) == 2
        assert node.restarts == 1
        assert answers(kubelet, container)
        # What runsc starts for a pod is of the pod's version also after the upgrade.
        kubelet.run(old, Wanted("two", REFERENCE, ["sleep", "1000"]))
        assert sandboxes(node)[version] > before_upgrade[version]
        assert set(sandboxes(node)) == {version}
        new, other = run_pod(node, kubelet, "new")
        assert versions_in_use(node) == {version, "next-version"}
        assert set(sandboxes(node)) == {version, "next-version"}
        kubelet.remove_pod(old)
        assert len([*installer.install(next_bundle, settings)]) == 1
        assert [path.name for path in (node.node.prefix / "versions").iterdir()] == ["next-version"]

        with pytest.raises(FailedPrecondition, match="running pods use next-version"):
            list(installer.remove())
        assert answers(kubelet, other)
        kubelet.remove_pod(new)
        installer.wait_until_unused(60.0)
    assert len([*installer.remove()]) == 3

    assert node.node.containerd.read_text("utf-8") == before
    assert not node.node.prefix.exists()
    assert not node.node.settings.exists()
    assert node.restarts == 2


@pytest.fixture
def builder(place: Place, runc: Path, first_bundle: Path, tmp_path: Path) -> Iterator[Containerd]:
    """Yield the newest containerd, with runc and the image of the installer."""
    archive = tmp_path / "node.tar"
    image.write(archive, first_bundle)
    with Containerd(build_of("2.4"), place, programs={"runc": runc}) as made:
        made.import_image(archive)
        yield made


@pytest.mark.timeout(480)
def test_the_image_installs_and_removes(
    builder: Containerd, first_bundle: Path, tmp_path: Path
) -> None:
    """A container of the image installs on the node that it mounts, and removes when it ends."""
    root = tmp_path / "root"
    root.mkdir()
    version = (first_bundle / bundle.VERSION).read_text("utf-8").strip()
    mount = f"type=bind,src={root},dst=/host,options=rbind:rw"
    argv = [*bundle.launch(image.BUNDLE), "-m", "hack.kubernetes.node"]
    flags = ("--detach", "--mount", mount)

    builder.run(
        "installer",
        *(*argv, "run", "--root", "/host"),
        flags=flags,
        reference=image.REFERENCE,
        timeout_s=_COPY_S,
    )
    shim = root / "opt/cryoshim/versions" / version / "bin" / SHIM
    config = root / "etc/containerd/config.toml"
    wait_until(lambda: config.exists() and shim.exists(), "the installation", 60.0)
    assert (root / "opt/cryoshim/current").readlink() == Path("versions") / version
    builder.ctr("tasks", "kill", "installer")
    builder.until_status("installer", "STOPPED")

    assert [path for path in root.rglob("*") if path.is_file()] == []
    builder.ctr("containers", "delete", "installer")
