"""The simulated GPU on real runsc, by the commands that an operator would type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from shim.errors import RunscError
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.guest import names
from shim.simgpu.guest.worker import Settings
from shim.simgpu.sandbox import Sandbox
from shim.simgpu.simulation import Simulation, environment, wait_until
from tests.builds import RunscBuild

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sim(runsc: RunscBuild) -> Iterator[Simulation]:
    """Give a simulated machine with one of the two runsc versions."""
    with Simulation(runsc.path) as simulation:
        yield simulation


class Box:
    """One container of a workload, and its clones; all gone at the end of the test."""

    def __init__(self, sim: Simulation, name: str) -> None:
        self.sim = sim
        self.name = name
        self.box: Sandbox = sim.sandbox()
        self._names = [name]
        self.pids: list[int] = []

    def start(self, settings: Settings) -> None:
        """Start the workload and wait for its first steps."""
        self.settings = settings
        self.box.run(self.name, self.sim.bundle(self.name, settings))
        self.pids = self.sim.until_ready(self.box, self.name).pids

    def act(self, *actions: str, name: str = "", pids: list[int] | None = None) -> None:
        """Do actions on all processes, one action after the other."""
        for action in actions:
            self.box.act(name or self.name, action, pids or self.pids)

    def clone(self, image: Path) -> str:
        """Restore an image under a new name."""
        name = f"c{len(self._names)}-{self.name}"  # runsc matches ids by prefix
        self._names.append(name)
        self.box.restore(name, self.sim.bundle(name, self.settings), image)
        return name

    def fine(self, name: str = "") -> bool:
        """Whether the workload goes on and has lost nothing."""
        works = self.sim.works(self.box, name or self.name)
        return works and self.sim.verify(self.box, name or self.name).intact

    def close(self) -> None:
        """Delete everything."""
        for name in self._names:
            self.box.delete(name)


@pytest.fixture
def box(sim: Simulation, request: pytest.FixtureRequest) -> Iterator[Box]:
    """Give a container to start, on a device with no faults and no other memory."""
    sim.faults()
    sim.limit(reserved_bytes=0)
    sim.calls(clear=True)
    made = Box(sim, f"t{abs(hash(request.node.name)) % 10**8}")
    with closing(made):
        yield made


def test_frozen_and_thawed_by_hand_nothing_is_lost(sim: Simulation, box: Box) -> None:
    """Lock and checkpoint all, save, restore and unlock all: original and clone are whole."""
    box.start(Settings(processes=3))
    box.act("lock", "checkpoint")
    image = sim.image(box.name)

    assert box.box.checkpoint(box.name, image).status == 0

    box.act("restore", "unlock")
    assert box.fine()
    clone = box.clone(image)
    box.act("restore", "unlock", name=clone)
    assert box.fine(clone)
    assert box.fine()


def test_two_clones_live_beside_the_original(sim: Simulation, box: Box) -> None:
    """Each restored clone has device memory of its own."""
    box.start(Settings(processes=1))
    box.act("lock", "checkpoint")
    image = sim.image(box.name)
    box.box.checkpoint(box.name, image)
    box.act("restore", "unlock")
    clones = [box.clone(image), box.clone(image)]
    for clone in clones:
        box.act("restore", "unlock", name=clone)

    assert [box.fine(name) for name in (box.name, *clones)] == [True] * 3
    assert sim.device()["used_bytes"] == 3 * box.settings.device_bytes


def test_device_saw_what_the_generation_must_hold(sim: Simulation, box: Box) -> None:
    """The device's own digest of a held workload is the one that the host computes."""
    box.start(Settings(processes=1, key="known"))
    held = sim.hold(box.box, box.name).processes[0]
    mine = [a for a in sim.device()["allocations"] if a["key"] == "known.0.gpu"]

    assert [(a["generation"], a["bytes"]) for a in mine] == [(held.generation, 1 << 20)]
    assert sim.verify(box.box, box.name).processes[0].digests["gpu"] == mine[0]["digest"]


def test_builtin_engine_finds_and_toggles_the_processes(runsc_new: RunscBuild) -> None:
    """The engine built into the new runsc freezes and thaws the simulated GPU by itself."""
    with Simulation(runsc_new.path) as sim, closing(Box(sim, "builtin")) as box:
        box.start(Settings(processes=2, nvml_only=1))
        image = sim.image(box.name)

        assert box.box.checkpoint(box.name, image, "-cuda-checkpoint-path", names.TOOL).status == 0

        clone = box.clone(image)
        box.box.check("wait", "-restore", clone)
        assert box.fine()
        assert box.fine(clone)
        toggled = [(c.task, c.action) for c in sim.calls() if c.via == "toggle"]
        assert {task for task, _ in toggled} == {box.name, clone}
        assert len([c for c in toggled if c[1] == "checkpoint"]) == 2


@pytest.mark.every_combination
def test_omitted_freeze_is_caught(runsc: RunscBuild, sim: Simulation, box: Box) -> None:
    """The old runsc refuses to save an open device; on the new one both copies report a loss."""
    box.start(Settings(processes=2))
    image = sim.image(box.name)
    saved = box.box.checkpoint(box.name, image)

    if not runsc.has_builtin:
        assert saved.status != 0
        assert box.fine()
        return
    assert saved.status == 0
    clone = box.clone(image)
    for name in (box.name, clone):
        assert not sim.works(box.box, name)
        status = sim.verify(box.box, name)
        assert not status.intact
        assert len(status.losses) >= 2


@pytest.mark.every_combination
def test_one_process_missed_is_caught(runsc: RunscBuild, sim: Simulation, box: Box) -> None:
    """A freeze that forgets the second of two processes costs that one its memory."""
    box.start(Settings(processes=2))
    frozen, forgotten = box.pids
    box.act("lock", "checkpoint", pids=[frozen])
    saved = box.box.checkpoint(box.name, sim.image(box.name))
    box.act("restore", "unlock", pids=[frozen])

    if not runsc.has_builtin:
        assert saved.status != 0
        assert box.fine()
        return
    assert not sim.works(box.box, box.name)
    losses = sim.status(box.box, box.name).losses
    assert losses
    assert all(loss.startswith(f"process {forgotten}:") for loss in losses)


def test_omitted_thaw_is_seen_as_stuck(sim: Simulation, box: Box) -> None:
    """A workload that is not thawed makes no step, and says why."""
    box.start(Settings(processes=2))
    box.act("lock", "checkpoint")
    box.box.checkpoint(box.name, sim.image(box.name))
    box.act("restore")
    box.act("unlock", pids=box.pids[:1])

    assert not sim.works(box.box, box.name, timeout_s=1.0)
    status = sim.verify(box.box, box.name)
    assert not status.intact
    assert {p.pid: (p.state, p.stuck) for p in status.processes} == {
        box.pids[0]: ("running", False),
        box.pids[1]: ("locked", True),
    }
    box.act("unlock", pids=box.pids[1:])
    assert box.fine()


def test_doubled_restore_is_refused_and_noted(sim: Simulation, box: Box) -> None:
    """An action in the wrong state fails in the driver's words and is remembered."""
    box.start(Settings(processes=1))
    box.act("lock", "checkpoint", "restore")

    with pytest.raises(RunscError, match="cannot be performed in the present state"):
        box.act("restore")
    box.act("unlock")
    assert box.fine()
    assert sim.status(box.box, box.name).processes[0].misuse == ("restore while locked",)


def test_tool_reports_a_process_without_cuda(sim: Simulation, box: Box) -> None:
    """A process that only holds the device open has no state, as with NVML."""
    box.start(Settings(processes=1, nvml_only=1))
    holder = sim.status(box.box, box.name).holders[0]
    ran = box.box.cuda(box.name, "--get-state", "--pid", str(holder))

    assert ran.status == 1
    assert "initialization error" in ran.err
    listed = box.box.exec(box.name, ["/bin/ls", "-l", f"/proc/{holder}/fd"]).out
    assert names.CONTROL_NODE in listed


def test_lock_gives_up_after_its_timeout_and_undoes_itself(sim: Simulation, box: Box) -> None:
    """A process whose work never ends is running again when the lock has given up."""
    box.start(Settings(processes=1))
    pid = str(box.pids[0])
    sim.faults(Fault(action="lock", kind=Kind.BUSY, pid=box.pids[0]))
    ran = box.box.cuda(box.name, "--action", "lock", "--pid", pid, "--timeout", "300")

    assert ran.status == 1
    assert "device not ready" in ran.err
    assert 0.3 <= ran.elapsed_s < 3
    assert box.box.cuda(box.name, "--get-state", "--pid", pid).out == "running\n"
    assert box.fine()


@pytest.mark.parametrize(
    ("kind", "state"), ((Kind.BUSY, "running"), (Kind.HANG, "running"), (Kind.HANG_AFTER, "locked"))
)
def test_tool_that_hangs_can_be_killed(sim: Simulation, box: Box, kind: Kind, state: str) -> None:
    """A tool that never returns is killed by its pid; what it had done by then is done."""
    box.start(Settings(processes=1))
    pid = box.pids[0]
    before = set(box.box.pids(box.name))
    sim.faults(Fault(action="lock", kind=kind))

    def in_state(wanted: str) -> bool:
        return sim.status(box.box, box.name).processes[0].state == wanted

    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(box.box.cuda, box.name, "--action", "lock", "--pid", str(pid))
        sim.until_called("lock")
        if kind is not Kind.HANG:
            wait_until(lambda: in_state("locked"), "the lock", 60)
        (tool,) = set(box.box.pids(box.name)) - before
        box.box.check("kill", "-pid", str(tool), box.name, "9")
        assert hung.result(20).status != 0

    wait_until(lambda: in_state(state), f"state {state}", 60)
    if state == "locked":
        box.act("unlock")
    assert box.fine()


def test_restore_out_of_memory_poisons_the_process(sim: Simulation, box: Box) -> None:
    """After a restore that found no memory no restore works again, as with the real driver."""
    box.start(Settings(processes=1))
    box.act("lock", "checkpoint")
    sim.limit(reserved_bytes=sim.capacity_bytes)

    with pytest.raises(RunscError, match="out of memory"):
        box.act("restore")
    sim.limit(reserved_bytes=0)
    with pytest.raises(RunscError, match="OS call failed"):
        box.act("restore")
    assert sim.status(box.box, box.name).processes[0].state == "checkpointed"


def test_faults_come_when_they_are_due(sim: Simulation, box: Box) -> None:
    """The second lock fails, in the words that were asked for; a wrong state is a quiet lie."""
    box.start(Settings(processes=2))
    sim.faults(
        Fault(action="lock", kind=Kind.FAIL, nth=2, message="unspecified launch failure"),
        Fault(action="checkpoint", kind=Kind.WRONG_STATE),
    )

    with pytest.raises(RunscError, match=rf"process ID {box.pids[1]}: .*unspecified"):
        box.act("lock")
    box.act("checkpoint", pids=box.pids[:1])
    states = [p.state for p in sim.status(box.box, box.name).processes]
    assert states == ["locked", "running"]
    assert [(c.action, c.pid, c.task) for c in sim.calls()] == [
        ("lock", box.pids[0], box.name),
        ("lock", box.pids[1], box.name),
        ("checkpoint", box.pids[0], box.name),
    ]


def test_killed_container_gives_its_device_memory_back(sim: Simulation, box: Box) -> None:
    """Device memory lives as long as the connection of who took it."""
    box.start(Settings(processes=2))
    before = sim.device()["used_bytes"]
    box.box.delete(box.name)

    assert before == 2 * box.settings.device_bytes
    assert sim.device()["used_bytes"] == 0


def test_processes_come_and_go_on_demand(sim: Simulation, box: Box) -> None:
    """A worker can be added or ended while the container runs."""
    box.start(Settings(processes=1))
    sim.spawn(box.box, box.name)
    sim.until_ready(box.box, box.name)
    sim.end(box.box, box.name, box.pids[0])
    status = sim.until_ready(box.box, box.name)

    assert len(status.pids) == 1
    assert status.pids != box.pids
    assert box.fine()


def test_a_container_without_gpu_has_the_same_workload(sim: Simulation, box: Box) -> None:
    """Without a GPU the memory and the file are changed and checked all the same."""
    box.start(Settings(processes=1, gpu=False, resident_mib=16))
    image = sim.image(box.name)

    assert box.box.checkpoint(box.name, image).status == 0
    clone = box.clone(image)
    assert box.fine(clone)
    assert set(sim.verify(box.box, clone).processes[0].digests) == {"cpu", "file"}


def test_nvidia_smi_names_the_sandbox(sim: Simulation, box: Box) -> None:
    """The stand-in for nvidia-smi shows device memory by the sandbox's pid on the host."""
    box.start(Settings(processes=2))
    query = ["--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
    out = sim.remote.run([str(sim.folder / "tools" / "nvidia-smi"), *query]).out
    pid, used = out.split(",")

    assert "boot" in Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
    assert int(used) == 2


def test_nothing_is_left_behind(runsc: RunscBuild) -> None:
    """The host's /dev is untouched meanwhile; afterwards no folder, mount or process is left."""
    with Simulation(runsc.path) as sim:
        box = sim.sandbox()
        box.run("left", sim.bundle("left"))
        sim.until_ready(box, "left")
        folder = str(sim.folder)
        assert not Path(names.CONTROL_NODE).exists()
        assert folder not in Path("/proc/self/mounts").read_text("utf-8")

    assert not Path(folder).exists()
    assert _processes_that_mention(folder) == []


def test_nothing_is_left_when_its_creator_is_killed(runsc: RunscBuild) -> None:
    """A test run that is killed with -9 leaves no sandbox, no device and no folder."""
    code = (
        "import sys; from pathlib import Path; from shim.simgpu.simulation import Simulation\n"
        "with Simulation(Path(sys.argv[1])) as sim:\n"
        "    sim.sandbox().run('left', sim.bundle('left'))\n"
        "    print(sim.folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(runsc.path)]
    creator = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    with creator:
        assert creator.stdout is not None
        folder = creator.stdout.readline().strip()
        assert len(_processes_that_mention(folder)) > 3
        creator.kill()
        creator.wait()

    wait_until(lambda: not _processes_that_mention(folder), "the end of its processes", 60)
    assert not Path(folder).exists()


def test_small_disk_is_full_soon(sim: Simulation, box: Box) -> None:
    """A save to a disk that is too small fails, and the workload that goes on is whole."""
    box.start(Settings(processes=1))
    box.act("lock", "checkpoint")
    folder = sim.small_disk(box.name, 1 << 20)

    assert box.box.checkpoint(box.name, folder / "image").status != 0
    box.act("restore", "unlock")
    assert box.fine()


def _processes_that_mention(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_text("utf-8", "replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found
