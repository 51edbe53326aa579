"""What lives in or beside a GPU container: holders without CUDA, comers and goers, sessions."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import CudaError, Refused
from shim.model import CheckpointOptions, Connections, EngineName, Progress
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import Settings, environment, wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Background, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)

HELD = "/dev/beside"
CONNECT = """
import socket, sys, time
held = socket.socket(socket.AF_UNIX)
held.connect(sys.argv[1])
print("connected", flush=True)
while True:
    try:
        held.send(b".")
        held.recv(1)
    except OSError:
        print("cut", flush=True)
        break
    time.sleep(0.05)
time.sleep(1000)
"""


# Processes that hold the device.


@pytest.mark.every_combination
def test_holder_without_cuda_is_named_and_left_alone(rig: Rig) -> None:
    """A process that only uses NVML is refused on the old runsc, and reported on the new one."""
    status = rig.workload("job", nvml_only=1)
    holder = str(status.holders[0])

    if not rig.build.has_builtin:
        error = refused(Refused, lambda: rig.checkpoint("job"))
        assert holder in error.message
        assert rig.client.images() == []
        assert {call.action for call in rig.sim.calls()} <= {"init", "get-state"}
        assert rig.fine("job")
        return

    made = rig.checkpoint("job")
    rig.restore("copy", made.image_path)

    assert any(holder in warning for warning in made.warnings)
    assert rig.fine("job")
    assert rig.fine("copy")
    assert rig.sim.status(rig.guest, "copy").holders == status.holders
    assert holder not in {str(c.pid) for c in rig.sim.calls() if c.action != "get-state"}


def test_process_that_appears_meanwhile_is_frozen_too(rig: Rig) -> None:
    """A CUDA process that begins while the others are being locked is found before the save."""
    before = rig.workload("job", processes=2).pids
    rig.sim.faults(Fault(action="lock", kind=Kind.SLOW, seconds=2.0))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.checkpoint("job", "phased"))
    rig.sim.until_called("lock")
    added = rig.sim.spawn(rig.behind, "job")

    made = under_way.result()

    assert [p.pid for p in made.processes] == sorted([*before, added])
    rig.sim.faults()
    assert rig.fine("job")
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")


def test_process_that_the_built_in_engine_misses(runsc_new: RunscBuild) -> None:
    """Runsc looks once: a process that starts in its freeze is reported; there is no image."""
    with machine_with(runsc_new) as rig:
        rig.workload("job", processes=1)
        rig.sim.faults(Fault(action="lock", kind=Kind.SLOW, seconds=1.0))
        under_way = Background(lambda: rig.checkpoint("job", "builtin"))
        rig.sim.until_called("lock")
        added = rig.sim.spawn(rig.behind, "job")

        error = refused(CudaError, under_way.result)

        assert f"process {added} " in error.message
        assert rig.client.images() == []
        rig.clear()
        assert rig.leftovers() == []


def test_process_that_dies_in_the_thaw_is_in_the_image(rig: Rig) -> None:
    """Who exits after the save is whole in the copy, though the original goes on without it."""
    first, second = rig.workload("job", processes=2).pids
    rig.sim.faults(Fault(action="restore", kind=Kind.DIE, pid=second))

    made = rig.checkpoint("job", "phased")

    assert [p.pid for p in made.processes] == [first, second]
    rig.sim.faults()
    assert rig.sim.status(rig.guest, "job").pids == [first]
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")
    assert len(rig.sim.status(rig.guest, "copy").pids) == 2


def test_process_that_ends_meanwhile_is_no_error(rig: Rig) -> None:
    """A CUDA process that exits while it is locked is forgotten; the others are saved."""
    first, second = rig.workload("job", processes=2).pids
    rig.sim.faults(Fault(action="lock", kind=Kind.SLOW, seconds=2.0, pid=second))
    under_way = Background(lambda: rig.checkpoint("job", "phased"))
    rig.sim.until_called("lock", 2)
    rig.sim.end(rig.behind, "job", second)

    made = under_way.result()

    assert [p.pid for p in made.processes] == [first]
    assert rig.fine("job")
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")


# Exec sessions.


@pytest.mark.every_combination
def test_session_of_another_is_named(rig: Rig) -> None:
    """An exec that was made with plain runsc is refused on the old one, a warning on the new."""
    rig.workload("job")
    argv = [str(rig.build.path), "--root", str(rig.sim.folder / "state/runsc/default")]
    argv += [f"--{key}={value}" for key, value in rig.sim.flags.items()]
    output = rig.sim.folder / "foreign.log"
    pid = rig.sim.remote.spawn(
        [*argv, "exec", "job+", "/bin/sleep", "1000"], output=output, env=environment()
    )
    wait_until(lambda: len(rig.client.pids("job")) == 3, "the session", WAIT_S)

    _session_is_named(rig, "sleep")
    rig.sim.remote.kill(pid)


@pytest.mark.every_combination
def test_session_of_ours_is_named(rig: Rig) -> None:
    """An exec of the client's is treated as any; it runs on in the original."""
    rig.workload("job")
    rig.execute("job", "session", "/bin/sleep", "1000")

    _session_is_named(rig, "sleep")

    assert rig.client.state("job", "session").state is TaskState.RUNNING
    rig.client.kill("job", 9, exec_id="session")
    assert rig.client.wait("job", "session").status == 137
    rig.client.delete("job", "session")
    assert rig.checkpoint("job").warnings == ()


def _session_is_named(rig: Rig, command: str) -> None:
    if not rig.build.has_builtin:
        error = refused(Refused, lambda: rig.checkpoint("job"))
        assert command in error.message
        assert rig.sim.calls() == []
        assert rig.fine("job")
        return
    made = rig.checkpoint("job")
    assert [command in warning for warning in made.warnings] == [True]
    assert rig.fine("job")
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")


def test_session_that_has_ended_is_no_obstacle(rig: Rig) -> None:
    """An exec that ended, deleted or not, is no session."""
    rig.workload("job")
    rig.execute("job", "kept", "/bin/true")
    rig.client.wait("job", "kept")

    made = rig.checkpoint("job")

    assert made.warnings == ()
    rig.restore("copy", made.image_path)
    assert rig.client.state("job", "kept").state is TaskState.STOPPED
    assert rig.fine("copy")


# Connections.


class Echo:
    """A host program that answers every byte on a unix socket, and counts who is connected."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.connected = 0
        self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        self.connected += 1
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(1):
                self.bytes += 1
                peer.sendall(data)
        self.connected -= 1

    def until_answered(self) -> None:
        """Wait until a connection is used once more."""
        before = self.bytes
        wait_until(lambda: self.bytes > before, "another byte", WAIT_S)

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo(rig: Rig) -> Iterator[Echo]:
    """Give a host program with a socket, in a folder that can be mounted."""
    folder = rig.sim.folder / "beside"
    folder.mkdir()
    made = Echo(folder / "echo.sock")
    yield made
    made.close()
    rig.clear()
    (folder / "echo.sock").unlink()
    folder.rmdir()


def connected_job(rig: Rig, *, gpu: bool) -> None:
    """Start a workload beside a process that is connected to the host."""
    bundle = rig.sim.bundle("job", Settings(gpu=gpu, period_s=0.25), inject_tool=False)
    with rig.edited(bundle) as spec:
        mount = {"destination": HELD, "type": "bind", "source": str(rig.sim.folder / "beside")}
        spec["mounts"].append({**mount, "options": ["bind", "rw"]})
        python, *rest = spec["process"]["args"]
        code = [python, "-ISc", CONNECT, f"{HELD}/echo.sock"]
        script = '"$1" "$2" "$3" "$4" & shift 4; exec "$@"'
        spec["process"]["args"] = ["/bin/sh", "-c", script, "sh", *code, python, *rest]
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")


@pytest.mark.every_combination
@pytest.mark.parametrize("gpu", (True, False))
def test_connection_to_the_host_is_named(rig: Rig, echo: Echo, gpu: bool) -> None:
    """A save cuts it on the new runsc, with a warning, and cannot be made on the old one."""
    connected_job(rig, gpu=gpu)
    echo.until_answered()

    if not rig.build.has_builtin:
        error = refused(Refused, lambda: rig.checkpoint("job"))
        assert "echo.sock" in error.message
        _goes_on(rig, echo)
        return

    made = rig.checkpoint("job")

    assert ["echo.sock" in warning for warning in made.warnings] == [True]
    assert "device.sock" not in made.warnings[0]
    wait_until(lambda: echo.connected == 0, "the cut", WAIT_S)
    assert rig.fine("job")
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")


@pytest.mark.parametrize("gpu", (True, False))
def test_connections_can_be_refused(rig: Rig, echo: Echo, gpu: bool) -> None:
    """With connections=refuse the answer is no, the connection lives, and all is thawed."""
    connected_job(rig, gpu=gpu)
    echo.until_answered()

    error = refused(Refused, lambda: rig.checkpoint("job", connections=Connections.REFUSE))

    assert "echo.sock" in error.message
    _goes_on(rig, echo)


def _goes_on(rig: Rig, echo: Echo) -> None:
    assert echo.connected == 1
    echo.until_answered()
    assert rig.client.images() == []
    assert rig.fine("job")


def test_the_device_itself_is_no_connection(rig: Rig) -> None:
    """What the freeze closes by itself is not named, even when connections are refused."""
    rig.workload("job")
    made = rig.checkpoint("job", connections=Connections.REFUSE)

    assert made.warnings == ()


def test_progress_names_every_process(rig: Rig) -> None:
    """The progress stream reports each process's way through the phases."""
    pids = rig.workload("job", processes=2).pids
    seen: list[Progress] = []
    options = CheckpointOptions(engine=EngineName.PHASED)
    rig.client.checkpoint("job", options, seen.append)

    for pid in pids:
        states = [p.pid_state for p in seen if p.pid == pid]
        assert [s for s in states if s != "running"][:2] == ["locked", "checkpointed"]
        assert states[-1] == "running"
    order = list(dict.fromkeys(p.phase.value for p in seen if not p.pid))
    assert [p for p in order if p != "detect"][:1] == ["preflight"]
    assert order.index("save") < order.index("thaw") < order.index("seal") < order.index("commit")
    assert all(a.elapsed_s <= b.elapsed_s for a, b in itertools.pairwise(seen))
