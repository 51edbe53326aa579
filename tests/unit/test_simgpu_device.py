"""The simulated device and the driver inside a process, without a sandbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import inventory
from shim.simgpu import device, gpu, nvidia_smi, tools
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.guest import cuda_checkpoint, names, pattern
from shim.simgpu.guest.client import DeviceClient, DeviceError, DeviceLost
from shim.simgpu.guest.cuda_checkpoint import Failure, Usage
from shim.simgpu.guest.driver import Driver
from shim.simgpu.simulation import wait_until

SLOT = pattern.SLOT


@dataclass
class Machine:
    """A device that listens, and paths as the guest would see them."""

    device: device.Device
    socket: str
    losses: list[str]

    def driver(self) -> Driver:
        """Start a CUDA context of this very process."""
        made = Driver("test", on_loss=self.losses.append)
        made.listen()
        return made


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Give a device with room for 16 slots."""
    simulated = device.Device(16 * SLOT)
    path = tmp_path / "device.sock"
    server = device.Server(simulated, path)
    thread = threading.Thread(target=server.serve)
    thread.start()
    monkeypatch.setattr(names, "CONTROL_NODE", "/dev/null")
    monkeypatch.setattr(names, "DEVICE_SOCKET", str(path))
    monkeypatch.setattr(names, "RUN_DIR", str(tmp_path))
    monkeypatch.setattr(cuda_checkpoint, "_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(cuda_checkpoint, "_DEVICE_SOCKET", str(path))
    yield Machine(simulated, str(path), [])
    server.close()
    thread.join(10)


@pytest.fixture
def pid(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the pid by which a driver of this process listens."""
    monkeypatch.setattr("os.getpid", lambda: 4711)
    return 4711


def tool(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run the stand-in in this process: exit status, stdout, stderr."""
    capsys.readouterr()
    try:
        status = cuda_checkpoint.run(cuda_checkpoint.parse(list(argv)))
    except Usage as error:
        return 1, "", str(error)
    out, err = capsys.readouterr()
    return status, out, err


@given(st.integers(1, 5), st.integers(0, 40))
def test_pattern_is_what_replaying_every_generation_gives(count: int, generation: int) -> None:
    """The closed form agrees with writing one slot per generation from the start."""
    size = count * SLOT
    last = dict.fromkeys(range(count), 0)
    for step in range(1, generation + 1):
        last[pattern.slot_of(size, step)] = step

    assert {slot: pattern.last_write(size, slot, generation) for slot in last} == last


def test_memory_lives_as_long_as_its_connection(machine: Machine) -> None:
    """What a client held is free once it has hung up, and no other process can read it before."""
    first, second = DeviceClient(machine.socket), DeviceClient(machine.socket)
    handle = first.alloc("k", 2 * SLOT, 0)
    with pytest.raises(DeviceError, match="invalid argument"):
        second.read(handle, 0, 1)
    assert machine.device.memory.used_bytes() == 2 * SLOT

    first.close()

    wait_until(lambda: machine.device.memory.used_bytes() == 0, "freed memory", 60)
    second.close()


def test_device_runs_out_of_memory(machine: Machine) -> None:
    """An allocation beyond the capacity is refused in CUDA's words."""
    client = DeviceClient(machine.socket)
    client.alloc("k", 16 * SLOT, 0)
    with pytest.raises(DeviceError, match="out of memory"):
        client.alloc("k", SLOT, 0)
    client.close()


@pytest.mark.parametrize(
    "request_",
    (
        {"op": "read", "handle": 1, "offset": -1, "bytes": 1},
        {"op": "read", "handle": 1, "offset": SLOT, "bytes": 1},
        {"op": "read", "handle": 1, "offset": 0, "bytes": -1},
        {"op": "alloc", "key": "k", "bytes": 1, "generation": 0},
        {"op": "alloc"},
        {"op": "launch", "handle": "1", "generation": 1},
        {"op": "no such"},
    ),
)
def test_nonsense_is_refused_and_does_no_harm(
    machine: Machine, request_: dict[str, object]
) -> None:
    """A request out of range gets an error, and the connection goes on."""
    client = DeviceClient(machine.socket)
    client.alloc("k", SLOT, 0)
    with pytest.raises(DeviceError):
        client.call(dict(request_))
    assert client.digest(1) == pattern.digest([bytes(SLOT)])
    client.close()


def test_doubled_kernel_is_refused(machine: Machine) -> None:
    """A step done twice, or one left out, is seen by the device itself."""
    client = DeviceClient(machine.socket)
    handle = client.alloc("k", SLOT, 7)
    client.launch(handle, 8)
    for wrong in (8, 10):
        with pytest.raises(DeviceError, match="generation"):
            client.launch(handle, wrong)
    client.close()


def test_whole_cycle_keeps_every_byte(
    machine: Machine, pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lock, checkpoint, restore, unlock: the memory leaves the device and comes back."""
    driver = machine.driver()
    memory = driver.alloc("k", bytearray().join(pattern.expected("k", 3 * SLOT, 0)))
    for _ in range(4):
        driver.launch(memory)
    states = []
    for action in ("lock", "checkpoint", "restore", "unlock"):
        assert tool(capsys, "--action", action, "--pid", str(pid)) == (0, "", "")
        states.append(tool(capsys, "--get-state", "--pid", str(pid))[1].strip())
        if action == "checkpoint":
            assert machine.device.memory.used_bytes() == 0

    assert states == ["locked", "checkpointed", "locked", "running"]
    assert driver.digest(memory) == pattern.expected_digest("k", 3 * SLOT, 4)
    assert machine.losses == []


def test_toggle_goes_down_and_up(
    machine: Machine, pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A toggle suspends what runs and resumes what is suspended; its steps are distinguished."""
    driver = machine.driver()
    states = []
    for _ in range(2):
        assert tool(capsys, "--toggle", "-p", str(pid))[0] == 0
        states.append(driver.state)

    assert states == ["checkpointed", "running"]
    assert [c["action"] for c in machine.device.script.calls] == [
        "lock",
        "checkpoint",
        "restore",
        "unlock",
    ]


def test_calls_wait_while_the_process_is_locked(machine: Machine, pid: int) -> None:
    """A CUDA call of a locked process returns after the unlock, and not before."""
    driver = machine.driver()
    memory = driver.alloc("k", bytearray(SLOT))
    cuda_checkpoint.step("lock", pid, {})
    caller = threading.Thread(target=driver.launch, args=(memory,))
    caller.start()
    caller.join(0.2)
    assert caller.is_alive()

    cuda_checkpoint.step("unlock", pid, {})

    caller.join(10)
    assert memory.generation == 1


def test_lost_connection_is_a_loss(machine: Machine, pid: int) -> None:
    """A process whose connection is cut before it is checkpointed says so and is failed."""
    driver = machine.driver()
    driver.alloc("k", bytearray(SLOT))
    cuda_checkpoint.step("lock", pid, {})
    driver._device.close()

    with pytest.raises(Failure, match="OS call failed"):
        cuda_checkpoint.step("checkpoint", pid, {})
    assert driver.state == "failed"
    assert machine.losses


def test_no_cuda_process_is_reported_in_the_tools_words(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pid without CUDA gives exit status 1 and `initialization error`."""
    status, out, err = tool(capsys, "--get-state", "--pid", "99")

    assert (status, out) == (1, "")
    assert err == 'Could not get state on process ID 99: "initialization error"\n'


@pytest.mark.parametrize(
    ("driver", "argv", "known"),
    (
        (550, ["--toggle", "--pid", "1"], True),
        (550, ["--get-state", "--pid", "1"], False),
        (550, ["--action", "lock", "--pid", "1"], False),
        (555, ["--action", "lock", "--pid", "1"], True),
        (555, ["--action", "lock", "--pid", "1", "--timeout", "5"], False),
        (570, ["--action", "lock", "--pid", "1", "--timeout", "5"], True),
        (570, ["--action", "restore", "--pid", "1", "--device-map", "a=b"], False),
        (580, ["--action", "restore", "--pid", "1", "--device-map", "a=b"], True),
        (580, ["--action"], False),
        (580, ["--no-such"], False),
    ),
)
def test_each_driver_knows_its_own_options(
    driver: int, argv: list[str], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that the driver's release did not have yet is refused."""
    monkeypatch.setattr(cuda_checkpoint, "DRIVER", driver)
    if known:
        assert cuda_checkpoint.parse(argv)
        return
    with pytest.raises(Usage):
        cuda_checkpoint.parse(argv)


@pytest.mark.parametrize("argv", ([], ["--pid", "1"], ["--toggle"], ["--toggle", "--pid", "x"]))
def test_command_line_without_sense_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an action and a pid nothing is done."""
    assert tool(capsys, *argv)[0] == 1


def test_device_map_must_be_pairs(machine: Machine, pid: int) -> None:
    """A map with half a pair is an invalid argument, and the process can still be restored."""
    machine.driver()
    cuda_checkpoint.step("lock", pid, {})
    cuda_checkpoint.step("checkpoint", pid, {})
    with pytest.raises(Failure, match="invalid argument"):
        cuda_checkpoint.step("restore", pid, {"--device-map": "GPU-a="})
    cuda_checkpoint.step("restore", pid, {"--device-map": "GPU-a=GPU-b"})


def test_faults_match_and_count() -> None:
    """A fault counts the calls that match it, and only those."""
    script = device.Script()
    script.arm([Fault(action="lock", kind=Kind.FAIL, pid=2, nth=2, message="m")])
    asked = [("lock", 2), ("lock", 3), ("unlock", 2), ("lock", 2), ("lock", 2)]

    found = [script.ask(action, pid, "task", "") for action, pid in asked]

    assert found == ["", "", "", "fail 0.0 m", ""]


def test_faults_of_one_task_spare_its_clones() -> None:
    """With a task named, the same pid of another task goes through."""
    script = device.Script()
    script.arm([Fault(action="*", kind=Kind.HANG, task="a")])

    assert script.ask("restore", 1, "b", "") == ""
    assert script.ask("restore", 1, "a", "").startswith("hang ")


def test_unknown_fault_is_refused() -> None:
    """A kind that does not exist is an error where it is written."""
    with pytest.raises(ValueError, match="no such"):
        Fault(action="lock", kind="no such")


def test_product_reads_the_simulated_driver(tmp_path: Path) -> None:
    """The /proc tree has the real one's format: the product finds driver and GPU in it."""
    found = inventory.read(str(tools.write_nvidia_proc(tmp_path, 580)))

    assert found.driver == gpu.DRIVERS[580]
    assert [(g.uuid, g.minor) for g in found.gpus] == [(gpu.UUID, 0)]


def test_product_reads_the_simulated_nvidia_smi(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Used memory is reported per host process and GPU, free memory per GPU, in MiB."""
    client = DeviceClient(machine.socket)
    client.alloc("k", 16 * SLOT, 0)
    stats, _ = client.call({"op": "stats"})
    [pid] = {one["sandbox"] for one in stats["clients"] if one["bytes"]}

    async def ask(argv: list[str]) -> str:
        assert nvidia_smi.main(machine.socket, argv[1:]) == 0
        return capsys.readouterr().out

    held = asyncio.run(inventory.bytes_by_gpu("nvidia-smi", ask, pid))
    free = asyncio.run(inventory.free_bytes("nvidia-smi", ask))
    client.close()

    assert held == {gpu.UUID: 1 << 20}
    assert free == {gpu.UUID: stats["capacity_bytes"] - (1 << 20)}


def test_device_that_is_gone_is_lost(machine: Machine, tmp_path: Path) -> None:
    """A client says that the device is lost, whatever the operating system called it."""
    client = DeviceClient(machine.socket)
    client.close()
    with pytest.raises(DeviceLost):
        client.digest(1)
    with pytest.raises(OSError, match="No such file"):
        DeviceClient(str(tmp_path / "nowhere"))
