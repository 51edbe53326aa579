"""`cryo doctor` as a user calls it, with a real runsc and a real containerd's configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hack.tools.running import NotHere
from shim.doctor.report import Report
from shim.finding import Area, Finding, Level
from shim.image.staging import STAGING_PREFIX
from tests.builds import RunscBuild, excuse, find_program
from tests.containerd.builds import ContainerdBuild, find_containerd
from tests.containerd.config import Cri, write_config

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]
SHIM = "containerd-shim-cryo-v1"
OURS = {"cryo": "io.containerd.cryo.v1"}


def settings(folder: Path, runsc: RunscBuild, more: str = "") -> Path:
    """Write a config.toml with folders of its own."""
    path = folder / "cryo.toml"
    lines = [
        "[paths]",
        *(f'{name} = "{folder}/{name}"' for name in ("state", "images", "verified", "scratch")),
        f'[server]\naddress = "unix://{folder}/cryo.sock"',
        f'[runsc]\nbinary = "{runsc.path}"',
        more,
    ]
    path.write_text("\n".join(lines), "utf-8")
    return path


def doctor(
    config: Path, *more: str, search: str = "", json: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run it as a program of its own, with these folders before those of the PATH."""
    argv = [sys.executable, "-m", "shim.entry.cli", "--output", "json" if json else "table"]
    if "--containerd-config" not in more:
        # Not the one that another test runs at the moment.
        more = (*more, "--containerd-config", f"{config}.none")
    path = ":".join(each for each in (search, os.environ["PATH"]) if each)
    return subprocess.run(
        [*argv, "doctor", "--config", str(config), *more],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def examined(done: subprocess.CompletedProcess[str]) -> Report:
    """Return its report, which has its exit status."""
    found = msgspec.json.decode(done.stdout, type=Report)
    assert (found.exit_code, done.stderr) == (done.returncode, ""), done
    return found


def about(report: Report, area: Area, subject: str = "") -> list[Finding]:
    """Return the findings of a class, about one subject if it is named."""
    return [one for one in report.findings if one.area is area and subject in ("", one.subject)]


def containerd(line: str) -> ContainerdBuild:
    """Return a containerd of this machine."""
    try:
        return find_containerd(line)
    except NotHere as no:
        excuse(str(no))


def test_a_real_runsc_is_examined(runsc: RunscBuild, tmp_path: Path) -> None:
    """What each build can do and cannot is said; nothing fails, and nothing is left behind."""
    found = examined(doctor(settings(tmp_path, runsc)))

    assert about(found, Area.CHECK) == []
    assert about(found, Area.RUNSC, "runsc.flags")[0].text == "none"
    first, *limits = about(found, Area.RUNSC, "runsc")
    engines = "phased and builtin" if runsc.has_builtin else "phased"
    assert first.text.startswith(str(runsc.path))
    assert first.text.endswith(f"engines {engines}")
    assert bool(limits) is not runsc.has_builtin
    assert {one.level for one in limits} <= {Level.WARNING}
    assert found.exit_code == 0, found
    assert [path.name for path in tmp_path.iterdir()] == ["cryo.toml"]


NETWORK_SPEC = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/busybox", "true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs", "readonly": True},
    "linux": {"namespaces": [{"type": one} for one in ("network", "pid", "mount")]},
}


@pytest.mark.every_combination
@pytest.mark.parametrize("network", ("sandbox", "none"))
def test_a_warning_of_the_network_is_true(runsc: RunscBuild, tmp_path: Path, network: str) -> None:
    """There is one exactly where a container with a network does not start."""
    (tmp_path / "rootfs").mkdir()
    shutil.copy(find_program("busybox"), tmp_path / "rootfs" / "busybox")
    (tmp_path / "config.json").write_text(msgspec.json.encode(NETWORK_SPEC).decode(), "utf-8")
    flags = ["--root", str(tmp_path / "root"), "--ignore-cgroups", f"--network={network}"]
    # runsc leaves a mount of a network namespace in its root directory.
    argv = ["unshare", "--mount", str(runsc.path), *flags]
    argv += ["run", "--bundle", str(tmp_path), "cryo-doctor-network"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    config = settings(tmp_path, runsc, f'[runsc.flags]\nnetwork = "{network}"')

    report = examined(doctor(config))

    found = about(report, Area.RUNSC, "network")
    assert ("root network namespace" in ran.stderr) == bool(found), ran
    assert (ran.returncode != 0) == bool(found), ran
    assert all(one.level is Level.WARNING for one in found)


def test_flags_that_runsc_rejects(runsc: RunscBuild, tmp_path: Path) -> None:
    """Its own words are the finding, and the exit code is of this class."""
    flags = '[runsc.flags]\noverlay2 = "bogus"'

    found = examined(doctor(settings(tmp_path, runsc, flags)))

    assert found.exit_code == 22
    (one,) = about(found, Area.RUNSC, "runsc.flags")
    assert "bogus" in one.text


def test_sandboxes_start_only_with_the_programs_beside_runsc(
    runsc_new: RunscBuild, tmp_path: Path
) -> None:
    """With the policy STRICT runsc does not start a sandbox without them: it is a failure."""
    if (runsc_new.path.parent / "gvisor-bin").exists():
        pytest.skip("this runsc has them")
    flags = ["--sidecar-usage-policy=STRICT", "--network=none", "--ignore-cgroups"]
    argv = [str(runsc_new.path), "--root", str(tmp_path / "r"), *flags, "do", "/bin/true"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    policy = '[runsc.flags]\nsidecar-usage-policy = "STRICT"'
    found = examined(doctor(settings(tmp_path, runsc_new, policy)))

    assert ran.returncode != 0
    assert "gvisor_sentry" in ran.stderr
    assert [one.level for one in about(found, Area.RUNSC, "gvisor-bin")] == [Level.FAILURE]


@pytest.mark.parametrize("line", ("1.7", "2.4"))
def test_a_real_containerd_is_examined(line: str, runsc_new: RunscBuild, tmp_path: Path) -> None:
    """Its version, the shim on its PATH and the handler of its configuration are found."""
    build = containerd(line)
    config = write_config(tmp_path, build, Cri(sandbox_image="pause", runtimes=OURS), "")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / SHIM).symlink_to(Path(sys.executable).with_name(SHIM))
    search = f"{programs}:{build.folder}"

    done = doctor(settings(tmp_path, runsc_new), "--containerd-config", str(config), search=search)

    found = about(examined(done), Area.CONTAINERD)
    texts = {one.subject: one.text for one in found}
    assert {one.level for one in found} == {Level.OK}, found
    assert texts["containerd"].startswith(line)
    assert texts["shim"] == f"{programs}/{SHIM}, PATH of containerd"
    assert texts["annotations"] == "the handler cryo passes io.cryo.* on"


@pytest.mark.parametrize(("line", "lost"), (("1.7", True), ("2.4", False)))
def test_imports_are_read_as_containerd_reads_them(
    line: str, lost: bool, runsc_new: RunscBuild, tmp_path: Path
) -> None:
    """A drop-in replaces the settings of a plugin for 1.x, and not for 2.x."""
    build = containerd(line)
    name = "io.containerd.grpc.v1.cri" if lost else "io.containerd.cri.v1.runtime"
    version = f"version = {build.config_version}\n"
    more = tmp_path / "more.toml"
    more.write_text(f'{version}[plugins."{name}"]\nenable_selinux = false\n', "utf-8")
    config = write_config(
        tmp_path, build, Cri(sandbox_image="pause", runtimes=OURS), "", imports=[more]
    )
    argv = [str(build.folder / "containerd"), "--config", str(config), "config", "dump"]
    dump = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    search = f"{build.folder}:{Path(sys.executable).parent}"
    found = examined(
        doctor(settings(tmp_path, runsc_new), "--containerd-config", str(config), search=search)
    )

    (one,) = about(found, Area.CONTAINERD, "annotations")
    assert ("runtimes.cryo]" not in dump) is lost
    assert ("the handler cryo is lost" in one.text) is lost


def test_leftovers_are_repaired(runsc_new: RunscBuild, tmp_path: Path) -> None:
    """An unfinished image of a dead process is found, and removed on request only."""
    config = settings(tmp_path, runsc_new)
    staging = tmp_path / "images" / "default" / f"{STAGING_PREFIX}0011223344556677"
    staging.mkdir(parents=True)

    before = examined(doctor(config))
    assert staging.exists()
    after = examined(doctor(config, "--repair"))

    assert [one.level for one in about(before, Area.LEFTOVERS, "unfinished images")] == [
        Level.WARNING
    ]
    assert [one.level for one in about(after, Area.LEFTOVERS, "unfinished images")] == [Level.OK]
    assert any(str(staging) in line for line in after.repaired), after.repaired
    assert not staging.exists()


def test_a_table_for_people(runsc_new: RunscBuild, tmp_path: Path) -> None:
    """Without --output json each finding is a line that begins with its level."""
    done = doctor(settings(tmp_path, runsc_new), json=False)

    levels = {line.split()[0] for line in done.stdout.splitlines()}
    assert levels <= {"LEVEL", "ok", "warning"}
    assert done.returncode == 0
