"""The installer of Kubernetes nodes under a real systemd, which runs containerd and the sidecar."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.kubernetes.node import bundle, image
from tests.builds import RunscBuild, find_program
from tests.containerd.builds import ContainerdBuild
from tests.containerd.conftest import build_of
from tests.containerd.image import REFERENCE
from tests.debian import CleanDebian, machine

_BOOT_S = 420.0
_UNPACK_S = 120.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

_CONTAINERD = """[Unit]
Description=containerd

[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
Delegate=yes
KillMode=process
LimitNOFILE=infinity
"""
_CONFIG = """version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""
_SETTINGS = """[runsc.flags]
network = "none"
"""
# What the DaemonSet's container does, in the mount namespace of the node.
_SCRIPT = """
export PYTHONPATH=/installer
installer() { @LAUNCH@ -m hack.kubernetes.node "$@" --unit containerd.service; }
install() { installer install --bundle $1 --config /srv/settings.toml; }
pid_of() { systemctl show --property=MainPID --value $1; }
pids() { echo "pids $1 $(pid_of containerd) $(pid_of cryo)"; }
refused() { if installer remove 2>&1; then echo "not refused"; exit 1; fi; pids refused; }
cryo=/opt/cryoshim/current/bin/cryo
shim=/opt/cryoshim/current/bin/containerd-shim-cryo-v1

systemctl start containerd
pids before
install /cryoshim
pids installed
echo "cryo $(systemctl is-active cryo) $(systemctl is-enabled cryo)"
$cryo info
install /cryoshim
pids again

ctr images import --local --snapshotter native /srv/image.tar
ctr run --detach --snapshotter native --runtime $shim @REFERENCE@ pod sleep 1000
cd /srv/job
/opt/cryoshim/current/lib/python3*/site-packages/shim/runsc/bin/runsc spec -- /bin/sleep 1000
$cryo run -d --bundle /srv/job job
install /next
pids upgraded
$cryo tasks ls
ctr tasks exec --exec-id one pod echo answers
$cryo tasks exec job /bin/sleep 0

refused
systemctl kill --signal=KILL --kill-who=main cryo
systemctl stop cryo
refused
systemctl start cryo
$cryo tasks kill --signal KILL job
$cryo tasks wait job || test $? -eq 137
$cryo tasks delete job
install /next
pids settled
ls -A /opt/cryoshim/versions
refused
ctr tasks kill --signal KILL pod
until ctr tasks delete pod; do :; done
ctr containers delete pod
installer remove
pids removed
systemctl is-active cryo || echo "no cryo"
systemctl --failed --no-legend list-units
for one in /proc/[0-9]*; do
	case $(readlink $one/exe) in /opt/cryoshim/*) echo "left $(cat $one/comm)" ;; esac
done
"""


@pytest.fixture(scope="module")
def newest() -> ContainerdBuild:
    """Return the newest containerd."""
    return build_of("2.4")


@pytest.fixture
def node(
    newest: ContainerdBuild, runsc_new: RunscBuild, archive: Path, tmp_path: Path
) -> Iterator[CleanDebian]:
    """Yield a machine with containerd, and with the content of the installer's image."""
    with machine("debian-12-systemd") as debian:
        for name in ("containerd", "ctr"):
            shutil.copy2(newest.folder / name, debian.at(Path("/usr/local/bin") / name))
        write_bundles(debian, runsc_new.path, tmp_path)
        for path, text in (
            ("/etc/systemd/system/containerd.service", _CONTAINERD),
            ("/etc/containerd/config.toml", _CONFIG),
            ("/srv/settings.toml", _SETTINGS),
        ):
            debian.at(Path(path)).parent.mkdir(parents=True, exist_ok=True)
            debian.at(Path(path)).write_text(text, "utf-8")
        shutil.copy2(archive, debian.at(Path("/srv/image.tar")))
        rootfs = debian.at(Path("/srv/job/rootfs/bin"))
        rootfs.mkdir(parents=True)
        shutil.copy2(find_program("busybox"), rootfs / "sleep")
        yield debian


def write_bundles(debian: CleanDebian, runsc: Path, work: Path) -> None:
    """Unpack the image of the installer, and write a bundle with another build of runsc."""
    bundle.write(work / "first", runsc)
    image.write(work / "node.tar", work / "first")
    with tarfile.open(work / "node.tar") as packed:
        (layer,) = [one.name for one in packed if one.size > 1 << 20]
    script = 'tar -xOf "$1" "$2" | tar -xz -C "$3"'
    argv = ["sh", "-ec", script, "sh", str(work / "node.tar"), layer, str(debian.root)]
    subprocess.run(argv, check=True, timeout=_UNPACK_S)
    other = work / "runsc"
    other.write_bytes(runsc.read_bytes() + b"\n")
    other.chmod(0o755)
    bundle.write(debian.at(Path("/next")), other)


def installed(debian: CleanDebian) -> set[str]:
    """Return the files and links where the installer and systemd write."""
    found = (path for path in debian.root.rglob("*") if path.is_symlink() or path.is_file())
    paths = (str(path.relative_to(debian.root)) for path in found)
    return {path for path in paths if path.startswith(("etc/", "opt/", "usr/", "var/lib/systemd/"))}


def test_install_upgrade_and_remove(node: CleanDebian) -> None:
    """The sidecar runs, lists pods, keeps its tasks in an upgrade, and is removed with the rest."""
    node.at(Path("/etc/systemd/system/script.service")).touch()  # `boot` writes it
    before = installed(node)
    script = _SCRIPT.replace("@LAUNCH@", " ".join(bundle.launch(image.BUNDLE)))

    said = node.boot(script.replace("@REFERENCE@", REFERENCE), timeout_s=_BOOT_S)

    lines = [line.split() for line in said.splitlines() if line.startswith("pids ")]
    pids = {name: (containerd, cryo) for _, name, containerd, cryo in lines}
    assert pids["before"][0] != pids["installed"][0] != pids["removed"][0], said
    assert pids["installed"] == pids["again"]
    assert pids["installed"][0] == pids["upgraded"][0] == pids["settled"][0] != "0"
    assert pids["again"][1] != pids["upgraded"][1] != pids["settled"][1]
    assert "cryo active enabled" in said
    assert "tasks of the sidecar run: job in namespace default" in said
    assert said.count("tasks of the sidecar run: ") == 2
    assert said.count("running pods use ") == 1
    assert "\nno cryo\n" in said
    assert "\nleft " not in said
    assert installed(node) ^ before == set()
