"""The shell script that looks into a container, run by real shells over a made-up /proc."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shim.cuda.detect import _SCRIPT, Scan, parse_scan
from shim.runsc.run import run

SHELLS = tuple(
    argv
    for argv in (["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"], ["ksh"], ["mksh"])
    if shutil.which(argv[0])
)


class Machine:
    """A /proc and a /dev in a folder; devices are links to /dev/null, a character device."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.device("nvidiactl")
        (root / "proc/net").mkdir(parents=True)

    def device(self, name: str) -> Path:
        """Make a device of that name."""
        path = self.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/null")
        return path

    def process(
        self, pid: int, comm: str, *, threads: tuple[str, ...] = (), maps: str = ""
    ) -> Path:
        """Make a process; its descriptors are links in the folder that is returned."""
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(comm + "\n")
        (folder / "maps").write_text(maps)
        for number, name in enumerate((comm, *threads)):
            thread = folder / "task" / str(pid + number)
            thread.mkdir(parents=True)
            (thread / "comm").write_text(name + "\n")
        return folder / "fd"

    async def scan(self, shell: list[str], path: str = "/usr/bin:/bin") -> Scan | None:
        """Run the script on it."""
        text = _SCRIPT.replace("/proc", f"{self.root}/proc").replace(
            "/dev/nvidia", f"{self.root}/dev/nvidia"
        )
        program = shutil.which(shell[0])
        assert program is not None
        done = await run([program, *shell[1:], "-c", text], timeout_s=20, env={"PATH": path})
        assert done.status == 0
        assert done.stderr == b""
        return parse_scan(done.stdout.decode())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give an empty one."""
    return Machine(tmp_path)


@pytest.fixture(params=SHELLS, ids=" ".join)
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Give each shell that this machine has."""
    found: list[str] = request.param
    return found


MAPS = "7f00-7f01 rw-s 00000000 00:05 1  {}\n7fff-7fff r-xp 00000000 00:00 0  [stack]\n"


@pytest.mark.parametrize("path", ("/usr/bin:/bin", "/nonexistent"), ids=("grep", "builtins"))
async def test_holders_are_found(machine: Machine, shell: list[str], path: str) -> None:
    """By an open file, by a mapping alone, and not by anything else; with builtins alone too."""
    device = machine.device("nvidia0")
    fd = machine.process(7, "python3", threads=("worker", "cuda0123456789a"))
    (fd / "3").symlink_to(device)
    (fd / "4").symlink_to("/dev/zero")
    # As long as the driver's name, and none: our own tool is called so.
    machine.process(8, "cuda-checkpoint", maps=MAPS.format(f"{machine.root}/dev/nvidia0"))
    machine.process(9, "idle", maps=MAPS.format("/usr/lib/libc.so"))

    scan = await machine.scan(shell, path)

    assert scan is not None
    assert {h.pid: (h.name, h.driver_thread) for h in scan.holders} == {
        7: ("python3", True),
        8: ("cuda-checkpoint", False),
    }
    assert scan.pids == {7, 8, 9}


@pytest.mark.parametrize(
    "name",
    ("a b", "-n", "-e", r"a\nE", r"\c", r"\0101", "$(reboot)", "`id`", "*", "'", '"', "", "E"),
)
async def test_a_name_is_only_a_name(machine: Machine, shell: list[str], name: str) -> None:
    """No process can hide another one, or itself, behind what it calls itself."""
    fd = machine.process(5, name)
    (fd / "3").symlink_to(machine.root / "dev/nvidiactl")
    other = machine.process(6, "other")
    (other / "3").symlink_to(machine.root / "dev/nvidiactl")

    scan = await machine.scan(shell)

    assert scan is not None
    assert [h.pid for h in scan.holders] == [5, 6]
    head, backslash, _ = name.strip().partition("\\")
    assert scan.holders[0].name == head + ("?" if backslash else "")
    assert scan.pids == {5, 6}


async def test_connections_are_listed(machine: Machine, shell: list[str]) -> None:
    """Both tables are read, and the header line is passed over."""
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
    (machine.root / "proc/net/tcp").write_text(
        header + "   0: 00000000:1F90 0101A8C0:0050 01 00000000:00000000 00:00000000\n"
    )
    (machine.root / "proc/net/tcp6").write_text(
        header + "   0: " + "0" * 32 + ":1F90 B80D01200000000000000000010000FF:0016 01 0:0 0:0\n"
    )

    scan = await machine.scan(shell)

    assert scan is not None
    assert scan.tcp == ("192.168.1.1:80", "[2001:db8::ff00:1]:22")


async def test_a_process_that_ends_meanwhile(machine: Machine, shell: list[str]) -> None:
    """Files that vanish while the scan runs are no error and no noise."""
    machine.process(5, "short")
    for name in ("comm", "maps"):
        (machine.root / "proc/5" / name).unlink()
    shutil.rmtree(machine.root / "proc/5/task")

    scan = await machine.scan(shell)

    assert scan is not None
    assert scan.holders == ()


async def test_a_container_without_devices(tmp_path: Path, shell: list[str]) -> None:
    """Without a device no process holds one, and the scan succeeds."""
    machine = Machine(tmp_path)
    (tmp_path / "dev/nvidiactl").unlink()
    fd = machine.process(5, "x")
    (fd / "3").symlink_to("/dev/null")

    scan = await machine.scan(shell)

    assert scan is not None
    assert scan.holders == ()
    assert scan.pids == {5}
