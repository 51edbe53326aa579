"""`cryo doctor` finds each fault that is planted on a machine on which all is well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shim.doctor import examination, features
from shim.doctor.disk import Space, Write
from shim.errors import InvalidArgument
from shim.finding import Finding, Level
from shim.image.staging import STAGING_PREFIX
from shim.transaction.journal import Journal, Operation
from tests.unit.fakes_doctor import CONTAINERD_PID, HANDLER, MEMORY, MOUNTS, Machine

OK, WARNING, FAILURE = Level.OK, Level.WARNING, Level.FAILURE


class Fault(NamedTuple):
    """A fault: how it is planted, the check that finds it, and what that says."""

    check: str
    name: str
    plant: Callable[[Machine], object]
    level: Level
    says: str
    remedy: str


def mounted(path: str, flags: str) -> Callable[[Machine], object]:
    """Mount a folder of the machine with these flags."""
    return lambda m: m.write(
        "proc/self/mountinfo", f"{MOUNTS}40 22 8:2 / {m.root}/{path} {flags} - xfs /dev/vdb rw\n"
    )


def handler(old: str, new: str) -> Callable[[Machine], object]:
    """Change the handler in containerd's configuration."""
    return lambda m: m.write("etc/containerd/conf.d/cryo.toml", HANDLER.replace(old, new))


def interrupt(machine: Machine) -> None:
    """Leave the journal of a checkpoint that no process works on."""
    folder = machine.root / "state" / "tasks" / "default" / "job"
    folder.mkdir(parents=True)
    Journal(folder).open(Operation.CHECKPOINT, "/images/job")


def dead_shim(machine: Machine) -> None:
    """Leave a task of containerd whose shim has died."""
    owner = json.dumps({"owner": f"{machine.root}/shim.sock"})
    machine.write("state/shims/0a1b2c3d/tasks/default/job/task.json", owner)


def k3s(machine: Machine) -> None:
    """Let containerd run with a configuration elsewhere, which is damaged."""
    (machine.root / "etc/containerd/config.toml").unlink()
    machine.write(f"proc/{CONTAINERD_PID}/cmdline", "containerd\0-c\0/var/k3s/config.toml\0")
    machine.write("var/k3s/config.toml", "[[")


def damage(machine: Machine) -> None:
    """Leave a journal that cannot be decoded."""
    interrupt(machine)
    (machine.root / "state" / "tasks" / "default" / "job" / "journal.json").write_text("{")


def abandon(machine: Machine) -> None:
    """Leave an image that was being written."""
    (machine.root / "images" / "default" / f"{STAGING_PREFIX}0011223344556677").mkdir(parents=True)


def sandbox(pid: int) -> Callable[[Machine], object]:
    """Leave a container that runsc knows, and no task has."""
    state = json.dumps({"id": "job+", "sandbox": {"id": "job+", "pid": pid}})
    return lambda m: m.write("state/runsc/default/job+_sandbox:job+.state", state)


def strict(machine: Machine) -> None:
    """Require the programs beside runsc, and take them away."""
    (machine.root / "runsc" / "gvisor-bin" / "gvisor_sentry").unlink()
    machine.flags(sidecar_usage_policy="STRICT")


def no_network(machine: Machine, **flags: str) -> None:
    """Use a build that looks for a file, on a kernel that has it in each network namespace."""
    machine.lacks(features.HIDDEN_RMEM)
    machine.flags(**flags)
    with machine.runsc.path.open("a") as file:
        file.write(f"# {features.RMEM}\n")


def no_tools(machine: Machine, version: str = "") -> None:
    """Take both programs that move CUDA processes away."""
    machine.settings("cuda", tool="", helper="never")
    (machine.bin / "cuda-checkpoint").unlink()
    if version:
        drive(machine, version)


def drive(machine: Machine, version: str) -> None:
    """Load another driver."""
    text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue\n"
    machine.write("nvidia/version", text)


def unsupported(**flags: str) -> Callable[[Machine], object]:
    """Load a driver that nvproxy does not know, with these flags of runsc."""

    def plant(machine: Machine) -> None:
        drive(machine, "580.95.05")
        machine.flags(**flags)

    return plant


def first_line(machine: Machine, version: str) -> None:
    """Install a containerd 1.x, with the handler in its main file."""
    machine.program("containerd", f"echo containerd containerd.io {version} x")
    text = HANDLER.replace("cri.v1.runtime", "grpc.v1.cri").replace("version = 3", "version = 2")
    imports = 'imports = ["/etc/containerd/conf.d/*.toml"]\n'
    machine.write("etc/containerd/config.toml", imports + text)
    (machine.root / "etc/containerd/conf.d/cryo.toml").unlink()


def lose_handler(machine: Machine) -> None:
    """Let a drop-in file replace the settings of the plugin, as containerd 1.x does."""
    first_line(machine, "1.7.24")
    plugin = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "x"\n'
    machine.write("etc/containerd/conf.d/cryo.toml", plugin)


def copied_shim(machine: Machine) -> None:
    """Replace the link to the shim with a copy."""
    machine.shim.unlink()
    machine.program(machine.shim.name, "")


def other_socket(machine: Machine) -> None:
    """Put a file where the socket is to be."""
    machine.close()
    machine.socket.unlink()
    machine.socket.touch()


FAULTS = (
    Fault(
        "settings",
        "invalid config.toml",
        lambda m: setattr(m, "settings_error", InvalidArgument("bad key", remedy="correct it")),
        FAILURE,
        "bad key",
        "correct it",
    ),
    Fault("settings", "no root", lambda m: setattr(m, "uid", 1000), WARNING, "1000", "as root"),
    Fault(
        "kernel", "arm64", lambda m: setattr(m, "machine", "aarch64"), FAILURE, "aarch64", "x86_64"
    ),
    Fault(
        "kernel",
        "no pidfd",
        lambda m: m.lacks(features.PIDFD),
        FAILURE,
        "pidfd_open",
        "Linux 5.3",
    ),
    Fault("kernel", "no memfd", lambda m: m.lacks(features.MEMFD), FAILURE, "memfd", "newer"),
    Fault("kernel", "no tmpfs", lambda m: m.lacks(features.TMPFS), WARNING, "tmpfs", "Linux 5.2"),
    Fault("kernel", "no idmap", lambda m: m.lacks(features.IDMAP), WARNING, "idmapped", "5.12"),
    Fault(
        "kernel",
        "no seccomp",
        lambda m: m.write("proc/sys/kernel/seccomp/actions_avail", "kill_process\n"),
        FAILURE,
        "seccomp",
        "CONFIG_SECCOMP_FILTER",
    ),
    Fault(
        "kernel",
        "no user namespaces",
        lambda m: m.write("proc/sys/user/max_user_namespaces", "0\n"),
        FAILURE,
        "user namespace",
        "user.max_user_namespaces",
    ),
    Fault(
        "cgroups",
        "no cgroups",
        lambda m: m.write("proc/self/mountinfo", MOUNTS.splitlines()[0] + "\n"),
        FAILURE,
        "no cgroup hierarchy",
        "ignore-cgroups",
    ),
    Fault(
        "cgroups",
        "read-only cgroups",
        lambda m: m.write("proc/self/mountinfo", MOUNTS.replace("rw,nosuid", "ro,nosuid")),
        FAILURE,
        "/sys/fs/cgroup is read-only",
        "remount,rw",
    ),
    Fault(
        "cgroups",
        "no memory controller",
        lambda m: m.write("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
        WARNING,
        "memory is missing",
        "cgroup_disable=memory",
    ),
    Fault(
        "memory",
        "small pages",
        lambda m: m.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise [never]\n"),
        WARNING,
        "freezes slowly",
        'huge_pages = "adjust"',
    ),
    Fault(
        "memory",
        "little memory",
        lambda m: m.write("proc/meminfo", MEMORY.replace("230000000", "2000")),
        FAILURE,
        "are available",
        "free host memory",
    ),
    Fault(
        "GPUs",
        "GPU larger than the host",
        lambda m: m.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n"),
        WARNING,
        "cannot be frozen",
        "more memory than the GPU",
    ),
    Fault(
        "GPUs",
        "GPU memory in use",
        lambda m: m.smi("GPU-1, [N/A], Enabled, 300000, 300000\n"),
        WARNING,
        "not all of it can be frozen",
        "fewer tasks",
    ),
    Fault(
        "GPUs",
        "little disk for GPU memory",
        lambda m: m.smi("GPU-1, [N/A], Enabled, 200000, 200000\n"),
        WARNING,
        "not all of it can be saved",
        "larger disk",
    ),
    Fault(
        "runsc",
        "no runsc",
        lambda m: m.runsc.path.unlink(),
        FAILURE,
        "no such program",
        "install gVisor's runsc",
    ),
    Fault(
        "runsc",
        "another program",
        lambda m: m.settings("runsc", binary="/bin/true"),
        FAILURE,
        "not runsc",
        "runsc.binary",
    ),
    Fault(
        "runsc",
        "runsc of 2022",
        lambda m: m.runsc.on("help", "echo '  -image-path string'; exit 0"),
        FAILURE,
        "another sandbox at each save",
        "20240729",
    ),
    Fault("runsc", "old runsc", Machine.older_runsc, WARNING, "live exec session", "20250414"),
    Fault("runsc", "old runsc", Machine.older_runsc, WARNING, "host's network", "20260905"),
    Fault("runsc", "old runsc", Machine.older_runsc, WARNING, "without CUDA state", "20260706"),
    Fault(
        "runsc",
        "release 20260622",
        lambda m: m.runsc.prints("--version", "runsc version release-20260622.0\n"),
        WARNING,
        "without CUDA state",
        "20260706",
    ),
    Fault("runsc", "no network", no_network, WARNING, "on Linux 6.18.0 this", 'network = "none"'),
    Fault("runsc", "no gvisor-bin, strict", strict, FAILURE, "STRICT", "gvisor-bin"),
    Fault(
        "runsc",
        "no gvisor-bin",
        lambda m: (m.root / "runsc/gvisor-bin/gvisor_sentry").unlink(),
        WARNING,
        "is missing",
        "gvisor-bin of the same release",
    ),
    Fault(
        "runsc",
        "gvisor-bin without execution",
        lambda m: (m.root / "runsc/gvisor-bin/gvisor_sentry").chmod(0o600),
        FAILURE,
        "not executable",
        "gvisor-bin",
    ),
    Fault(
        "runsc",
        "rejected flags",
        lambda m: m.runsc.prints("list", err="flag provided but not defined: -x\n", status=2),
        FAILURE,
        "flag provided but not defined: -x",
        "[runsc.flags]",
    ),
    Fault(
        "runsc",
        "ptrace",
        lambda m: m.flags(platform="ptrace"),
        FAILURE,
        "SIGILL",
        'platform = "systrap"',
    ),
    Fault("runsc", "kvm", lambda m: m.flags(platform="kvm"), FAILURE, "/dev/kvm", "kvm module"),
    Fault("runsc", "debug", lambda m: m.flags(debug="true"), WARNING, "debug", "remove debug"),
    Fault("driver", "driver 535", lambda m: drive(m, "535.104.12"), FAILURE, "535", "570 or newer"),
    Fault("driver", "driver 550", lambda m: drive(m, "550.90.07"), WARNING, "only toggle", "570"),
    Fault(
        "driver",
        "driver unknown to nvproxy",
        lambda m: drive(m, "580.95.05"),
        FAILURE,
        "of 580 only 580.159.04",
        "a driver that this runsc knows",
    ),
    Fault(
        "driver",
        "driver treated as another",
        unsupported(nvproxy_driver_version="580.159.04"),
        WARNING,
        "as 580.159.04",
        "knows this driver",
    ),
    Fault(
        "driver",
        "unsupported driver allowed",
        unsupported(nvproxy_allow_unsupported_driver="true"),
        WARNING,
        "tries it",
        "knows this driver",
    ),
    Fault(
        "driver",
        "runsc without a list of drivers",
        lambda m: m.runsc.prints("nvproxy", status=128),
        WARNING,
        "does not say",
        "knows this driver",
    ),
    Fault("driver", "no tools", no_tools, FAILURE, "neither cryo-cuda", "C compiler"),
    Fault(
        "driver",
        "no tool for an old driver",
        lambda m: no_tools(m, "550.90.07"),
        FAILURE,
        "550.90.07 requires",
        "cuda-checkpoint on PATH",
    ),
    Fault(
        "driver",
        "wrong tool",
        lambda m: m.settings("cuda", tool="/nowhere"),
        FAILURE,
        "/nowhere",
        "cuda.tool",
    ),
    Fault(
        "GPUs",
        "driver without a GPU",
        lambda m: (m.root / "nvidia/gpus/0000:8a:00.0/information").unlink(),
        FAILURE,
        "has no GPU",
        "dmesg",
    ),
    Fault(
        "GPUs",
        "no nvidia-uvm",
        lambda m: (m.root / "dev/nvidia-uvm").unlink(),
        FAILURE,
        "/dev/nvidia-uvm",
        "nvidia-modprobe",
    ),
    Fault(
        "GPUs",
        "MIG",
        lambda m: m.smi("GPU-1, Enabled, Enabled, 81559, 1\n"),
        FAILURE,
        "GPU-1",
        "nvidia-smi -mig 0",
    ),
    Fault(
        "GPUs",
        "no persistence mode",
        lambda m: m.smi("GPU-1, [N/A], Disabled, 81559, 1\n"),
        WARNING,
        "GPU-1",
        "nvidia-persistenced",
    ),
    Fault(
        "GPUs",
        "nvidia-smi fails",
        lambda m: m.program("nvidia-smi", "echo no devices; exit 9"),
        WARNING,
        "status 9: no devices",
        "nvidia-smi",
    ),
    Fault(
        "GPUs",
        "MPS",
        lambda m: m.write("proc/88/comm", "nvidia-cuda-mps\n"),
        WARNING,
        "MPS daemon",
        "nvidia-cuda-mps-control",
    ),
    Fault(
        "GPUs",
        "damaged CDI file",
        lambda m: m.write("cdi/nvidia.json", "{"),
        WARNING,
        "nvidia.json cannot be read",
        "nvidia-ctk",
    ),
    Fault(
        "GPUs",
        "CDI of another driver",
        lambda m: m.write(
            "cdi/nvidia.json",
            '{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", '
            '"containerEdits": {"deviceNodes": [{"path": "/dev/nvidia-gone"}]}}]}',
        ),
        WARNING,
        "/dev/nvidia-gone",
        "nvidia-ctk",
    ),
    Fault(
        "containerd",
        "damaged configuration",
        lambda m: m.write("etc/containerd/conf.d/cryo.toml", "[["),
        FAILURE,
        "cryo.toml cannot be read",
        "restart containerd",
    ),
    Fault(
        "containerd",
        "old containerd",
        lambda m: m.program("containerd", "echo containerd containerd.io 1.4.3 x"),
        FAILURE,
        "1.4.3 is too old",
        "1.7",
    ),
    Fault(
        "containerd",
        "pods on containerd 1.6",
        lambda m: first_line(m, "1.6.20"),
        WARNING,
        "/dev/shm twice",
        "1.7",
    ),
    Fault("containerd", "another configuration", k3s, FAILURE, "config.toml cannot be", "restart"),
    Fault(
        "containerd",
        "runsc not on its PATH",
        lambda m: m.settings("runsc", binary="runsc-elsewhere"),
        FAILURE,
        "runsc-elsewhere is not on containerd's PATH",
        "binary under [runsc]",
    ),
    Fault(
        "containerd",
        "newer format",
        lambda m: m.program("containerd", "echo containerd containerd.io 1.7.24 x"),
        FAILURE,
        "has version 3, and 1.7.24 reads 2",
        "cryo install containerd",
    ),
    Fault("containerd", "lost handler", lose_handler, WARNING, "cryo is lost", "containerd 2.x"),
    Fault(
        "containerd",
        "not restarted",
        lambda m: m.write(
            f"proc/{CONTAINERD_PID}/stat", f"77 (containerd) S {'0 ' * 18}5000 0 0\n"
        ),
        WARNING,
        "changed after containerd had started",
        "restart containerd",
    ),
    Fault(
        "containerd",
        "no shim",
        lambda m: m.shim.unlink(),
        FAILURE,
        "not on",
        "cryo install containerd",
    ),
    Fault(
        "containerd",
        "shim leads nowhere",
        lambda m: m.shim.resolve().unlink(),
        FAILURE,
        "leads nowhere",
        "cryo install containerd",
    ),
    Fault(
        "containerd",
        "shim without execution",
        lambda m: m.shim.resolve().chmod(0o644),
        FAILURE,
        "not executable",
        "chmod +x",
    ),
    Fault("containerd", "copied shim", copied_shim, FAILURE, "is a copy", "symbolic link"),
    Fault(
        "containerd",
        "wrong runtime_path",
        handler("  pod_annotations", '  runtime_path = "/gone"\n  pod_annotations'),
        FAILURE,
        "runtime_path of the handler cryo",
        "cryo install containerd",
    ),
    Fault(
        "containerd",
        "annotations of pods",
        handler("  pod_annotations", "  other"),
        WARNING,
        "pod_annotations lack it",
        'pod_annotations = ["io.cryo.*"]',
    ),
    Fault(
        "containerd",
        "annotations of containers",
        handler('  container_annotations = ["io.cryo.*"]', '  container_annotations = ["x.*"]'),
        WARNING,
        "container_annotations lack it",
        'container_annotations = ["io.cryo.*"]',
    ),
    Fault(
        "containerd",
        "no nvproxy for pods",
        lambda m: m.settings("runsc", flags={}),
        WARNING,
        "cannot open theirs",
        'nvproxy = "true"',
    ),
    Fault(
        "paths.images",
        "full disk",
        lambda m: setattr(m.disk, "found", Space(1 << 20, 10**6, in_memory=False)),
        FAILURE,
        "1.0 MiB free",
        "cryo checkpoints prune",
    ),
    Fault(
        "paths.images",
        "no inodes",
        lambda m: setattr(m.disk, "found", Space(1 << 40, 3, in_memory=False)),
        FAILURE,
        "3 more files",
        "remove files",
    ),
    Fault(
        "paths.images",
        "images in memory",
        lambda m: setattr(m.disk, "found", Space(1 << 40, 10**6, in_memory=True)),
        WARNING,
        "in memory",
        "on a disk",
    ),
    Fault(
        "paths.images",
        "slow disk",
        lambda m: setattr(m.disk, "written", Write(1 << 20, direct=True)),
        WARNING,
        "1.0 MiB/s",
        "faster disk",
    ),
    Fault(
        "paths.images",
        "no direct I/O",
        lambda m: setattr(m.disk, "written", Write(1 << 30, direct=False)),
        WARNING,
        "no direct I/O",
        "ext4 or xfs",
    ),
    Fault(
        "paths.images",
        "read-only disk",
        mounted("images", "ro"),
        FAILURE,
        "read-only",
        "read-write",
    ),
    Fault(
        "paths.images",
        "a file, not a folder",
        lambda m: m.settings("paths", images=str(m.write("file", ""))),
        FAILURE,
        "not a folder",
        "another path",
    ),
    Fault(
        "paths.images",
        "folder of others",
        lambda m: (m.root / "images").chmod(0o777),
        FAILURE,
        "images",
        "only root can write",
    ),
    Fault(
        "paths.state",
        "full disk",
        lambda m: setattr(m.disk, "found", Space(1 << 20, 10**6, in_memory=True)),
        FAILURE,
        "1.0 MiB free",
        "free space",
    ),
    Fault("paths.scratch", "noexec", mounted("scratch", "rw,noexec"), FAILURE, "SIGSEGV", "exec"),
    Fault("sockets", "stale socket", Machine.close, WARNING, "no sidecar answers", "cryo serve"),
    Fault("sockets", "no socket", other_socket, FAILURE, "not a socket", "remove it"),
    Fault(
        "sockets",
        "socket of everybody",
        lambda m: m.socket.chmod(0o666),
        FAILURE,
        "0666",
        "restart cryo serve",
    ),
    Fault(
        "sockets",
        "folder of everybody",
        lambda m: m.socket.parent.chmod(0o777),
        FAILURE,
        "run",
        "only root can write",
    ),
    Fault(
        "sockets",
        "no group",
        lambda m: m.settings("server", group="cryo-no-such-group"),
        FAILURE,
        "cryo-no-such-group",
        "groupadd",
    ),
    Fault(
        "sockets",
        "socket without its group",
        lambda m: m.settings("server", group="root"),
        WARNING,
        "not open to the configured group",
        "restart cryo serve",
    ),
    Fault(
        "sockets",
        "containerd does not answer",
        lambda m: m.settings("server", containerd=str(m.root / "none.sock")),
        WARNING,
        "events of tasks",
        "start containerd",
    ),
    Fault("shims", "dead", dead_shim, WARNING, "the shim of task job", "restart containerd"),
    Fault("journals", "checkpoint", interrupt, FAILURE, "task job", "cryo doctor --repair"),
    Fault("journals", "damaged journal", damage, FAILURE, "journal.json", "remove the file"),
    Fault("unfinished images", "staging", abandon, WARNING, STAGING_PREFIX, "--repair"),
    Fault("sandboxes", "dead", sandbox(999), WARNING, "is dead", "delete --force job+"),
    Fault(
        "sandboxes",
        "of no task",
        sandbox(CONTAINERD_PID),
        WARNING,
        "runs as process 77",
        "delete --force job+",
    ),
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Give a machine on which all is well."""
    made = Machine(tmp_path / "m")
    yield made
    made.close()


def is_found(fault: Fault, findings: tuple[Finding, ...]) -> bool:
    """Return whether one of the findings is what a fault must give."""
    return any(
        one.level is fault.level and fault.says in one.text and fault.remedy in one.remedy
        for one in findings
    )


async def test_nothing_is_wrong_with_a_good_machine(machine: Machine) -> None:
    """There is neither a warning nor a failure, and every check says something."""
    found = await examination.examine(machine.host)

    assert [one for one in found if one.level is not OK or one.remedy] == []
    for check in examination.CHECKS:
        assert await examination.examine(machine.host, [check])


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault.check}-{fault.name}-{fault.says}".replace(" ", "-")
)
async def test_a_planted_fault_is_found(machine: Machine, fault: Fault) -> None:
    """The check of its subject finds it, and says what to do."""
    check = [one for one in examination.CHECKS if one.name == fault.check]
    fault.plant(machine)

    found = await examination.examine(machine.host, check)
    assert is_found(fault, found), found


async def test_a_network_that_is_not_used(machine: Machine) -> None:
    """Without a network, or on the host's, such a build starts containers: there is no warning."""
    check = [one for one in examination.CHECKS if one.name == "runsc"]
    for value in ("none", "host"):
        no_network(machine, network=value)
        found = await examination.examine(machine.host, check)
        assert "network" not in {one.subject for one in found}


def test_every_check_has_a_planted_fault() -> None:
    """No check is left out of the table."""
    assert {fault.check for fault in FAULTS} == {check.name for check in examination.CHECKS}
