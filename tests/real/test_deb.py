"""The Debian package: lintian accepts it; it installs, works and goes again on Debian 12 and 13."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim import __version__
from tests.builds import RunscBuild, excuse, find_program
from tests.debian import CleanDebian, machine
from tests.real.test_unit import EXPOSURE

ROOT = Path(__file__).parents[2]
_BUILD_S = 900.0
_INSTALL_S = 300.0
# What dpkg writes about every package, and what a purge leaves of it.
_OF_DPKG = re.compile(r"var/(lib/dpkg|log|cache)/|var/lib/systemd/deb-systemd-helper-")

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """Yield the package, built from this checkout; compressed less, which takes less time."""
    for program in ("dpkg-buildpackage", "dh"):
        if shutil.which(program) is None:
            excuse(f"there is no {program}")
    with tempfile.TemporaryDirectory(prefix="cryo-deb-") as folder:
        argv = [sys.executable, "-m", "hack.deb", folder]
        environ = {**os.environ, "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield Path(done.stdout.strip())


def test_lintian_accepts_it(package: Path) -> None:
    """There is no error, no warning and no override without a use."""
    if shutil.which("lintian") is None:
        excuse("there is no lintian")
    argv = ["lintian", "--allow-root", "--fail-on", "error,warning", str(package)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_S, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_shells_find_their_completion(package: Path) -> None:
    """The scripts are where each shell looks for those of packages."""
    argv = ["dpkg-deb", "--contents", str(package)]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_S, check=True)
    files = {line.split()[-1] for line in listed.stdout.splitlines()}

    assert {
        "./usr/share/bash-completion/completions/cryo",
        "./usr/share/zsh/vendor-completions/_cryo",
        "./usr/share/fish/vendor_completions.d/cryo.fish",
    } <= files


@pytest.fixture(params=(pytest.param("debian-12", marks=pytest.mark.long), "debian-13"))
def debian(request: pytest.FixtureRequest) -> Iterator[CleanDebian]:
    """Yield a clean machine with each suite."""
    with machine(request.param) as made:
        yield made


def test_it_installs_works_and_goes(debian: CleanDebian, package: Path) -> None:
    """Its programs run; a second installation changes nothing, and a purge leaves nothing."""
    before = debian.files()
    shutil.copy2(package, debian.root / "root/cryoshim.deb")
    debian.run("dpkg --install /root/cryoshim.deb", timeout_s=_INSTALL_S)
    installed = debian.files()

    assert debian.run("cryo --version", timeout_s=60).split()[-1] == __version__
    assert __version__ in debian.run("containerd-shim-cryo-v1 -v", timeout_s=60)
    found = debian.run("cryo --output json doctor || test $? -ge 20", timeout_s=120)
    assert '"subject": "runsc"' in found
    plan = debian.run("cryo install containerd --dry-run", timeout_s=60)
    assert "io.containerd.cryo.v1" in plan
    # Neither enabled nor started, and compiled: nothing was added while the programs ran.
    assert not list((debian.root / "etc/systemd").rglob("cryo*"))
    assert debian.files() == installed

    debian.run("dpkg --install /root/cryoshim.deb", timeout_s=_INSTALL_S)
    assert {path for path in debian.files() ^ installed if not _OF_DPKG.match(path)} == set()

    debian.run("dpkg --purge cryoshim", timeout_s=_INSTALL_S)
    (debian.root / "root/cryoshim.deb").unlink()
    assert {path for path in debian.files() ^ before if not _OF_DPKG.match(path)} == set()


# What an administrator does with the service, and what a user does with the sidecar.
_SERVICE = """
! systemctl is-enabled --quiet cryo
! systemctl is-active --quiet cryo
systemctl enable --quiet --now cryo
cd /srv/job
runsc spec -- /bin/sleep 1000
cryo run -d --bundle /srv/job job
cryo tasks checkpoint --image-path /srv/image job
systemctl restart cryo
cryo tasks ls
cryo tasks restore --image-path /srv/image copy
systemctl stop cryo
systemctl show --property=ActiveState,Result cryo
ps_of() { for one in /proc/[0-9]*; do tr '\\0' ' ' <$one/cmdline; echo; done 2>/dev/null; }
echo "sandboxes $(ps_of | grep -c '^runsc-sandbox')"
systemctl start cryo
cryo tasks ls
for name in job copy; do
	cryo tasks kill --signal KILL $name
	cryo tasks wait $name || test $? -eq 137
	cryo tasks delete $name
done
systemd-analyze security --no-pager --threshold=@EXPOSURE@ cryo.service | tail -1
systemctl disable --quiet --now cryo
systemctl --failed --no-legend list-units
journalctl --no-pager --unit=cryo
"""


@pytest.mark.long
def test_the_service(package: Path, runsc_new: RunscBuild) -> None:
    """Under a real systemd it saves and restores tasks, which survive a stop of the service."""
    with machine("debian-12-systemd") as debian:
        shutil.copy2(package, debian.at(Path("/root/cryoshim.deb")))
        debian.run("dpkg --install /root/cryoshim.deb", timeout_s=_INSTALL_S)
        shutil.copy2(runsc_new.path, debian.at(Path("/usr/local/bin/runsc")))
        rootfs = debian.at(Path("/srv/job/rootfs/bin"))
        rootfs.mkdir(parents=True)
        shutil.copy2(find_program("busybox"), rootfs / "sleep")

        said = debian.boot(_SERVICE.replace("@EXPOSURE@", str(EXPOSURE)), timeout_s=_INSTALL_S)

    assert re.search(r"^copy +\d+ +RUNNING", said, re.MULTILINE), said
    assert "ActiveState=inactive" in said
    assert "Result=success" in said
    assert "sandboxes 2" in said


@pytest.mark.long
def test_images_stay(debian: CleanDebian, package: Path) -> None:
    """A purge removes caches, and says that images are left."""
    shutil.copy2(package, debian.root / "root/cryoshim.deb")
    debian.run("dpkg --install /root/cryoshim.deb", timeout_s=_INSTALL_S)
    image = debian.root / "var/lib/cryo/checkpoints/default/job/cryo.json"
    cached = debian.root / "var/lib/cryo/verified/one"
    for path in (image, cached):
        path.parent.mkdir(parents=True)
        path.touch()

    said = debian.run("dpkg --purge cryoshim", timeout_s=_INSTALL_S)

    assert "/var/lib/cryo has images" in said
    assert (image.exists(), cached.exists()) == (True, False)
