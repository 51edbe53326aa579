"""The calls of containerd to a shim, beside the plain runsc commands on the same bundle.

The shim's binary is run for `start`; Create, Start, Kill, Wait, Delete and Shutdown are called over
ttrpc; and the binary is run again for `delete`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from hack.bench import command
from shim.api.containerd.task.v3 import shim_pb2 as pb
from shim.errors import Unavailable
from shim.service.ttrpc.client import Client
from tests.containerd.gvisor import ANNOTATIONS

SERVICE = "containerd.task.v2.Task"
NAMESPACE = "bench"
STEPS = ("start", "Create", "Delete", "delete")
KILL = 9
LIMIT_S = 60.0

Spans = dict[str, list[float]]


class Stopwatch:
    """Collects how long each step took, in seconds."""

    def __init__(self) -> None:
        self.spans: Spans = {}

    @contextmanager
    def over(self, step: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.spans.setdefault(step, []).append(time.perf_counter() - began)


class Bundle:
    """A new bundle in a directory, which runs busybox's `sleep`."""

    def __init__(self, folder: Path, busybox: Path) -> None:
        self.folder = folder
        (folder / "rootfs/bin").mkdir(parents=True)
        shutil.copy(busybox, folder / "rootfs/bin/busybox")
        spec = {
            "ociVersion": "1.1.0",
            "process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "annotations": ANNOTATIONS,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
        }
        (folder / "config.json").write_text(json.dumps(spec), "utf-8")
        # containerd keeps this FIFO open; without a reader gVisor's shim dies when it logs.
        os.mkfifo(folder / "log")
        self.log = os.open(folder / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def plain(watch: Stopwatch, runsc: Sequence[str], bundle: Bundle) -> None:
    """Create and delete a container with runsc alone."""
    pid_file = bundle.folder / "plain.pid"
    # A sandbox may keep their streams open.
    run = partial(command.check, limit_s=LIMIT_S, stderr=subprocess.DEVNULL)
    with watch.over("Create"):
        run([*runsc, "create", f"--bundle={bundle.folder}", f"--pid-file={pid_file}", "plain"])
    run([*runsc, "start", "plain"])
    run([*runsc, "kill", "plain", "KILL"])
    # This process has adopted the sandbox; runsc regards a zombie as running.
    os.waitpid(int(pid_file.read_text("ascii")), 0)
    with watch.over("Delete"):
        run([*runsc, "delete", "plain"])


class Caller:
    """The calls of containerd to a shim."""

    def __init__(
        self, binary: str, bundle: Bundle, address: str, env: Mapping[str, str], given: bytes
    ) -> None:
        """Use the address of containerd's socket; it receives events at `.ttrpc` of that."""
        self._binary = binary
        self._bundle = bundle
        self._address = address
        self._env = {**os.environ, "TTRPC_ADDRESS": f"{address}.ttrpc", **env}
        self._given = given

    async def life(self, watch: Stopwatch, name: str) -> None:
        """Create and delete a container through the shim."""
        client = await self.begin(watch, name)
        try:
            await self.end(client, watch, name)
        finally:
            await client.close()
        with watch.over("delete"):
            self._call(name, "delete")

    async def begin(self, watch: Stopwatch, name: str) -> Client:
        """Start a container; return the client of its shim."""
        with watch.over("start"):
            address = _address(self._call(name, "start"))
        client = await Client.connect(address)
        with watch.over("Create"):
            request = pb.CreateTaskRequest(id=name, bundle=str(self._bundle.folder))
            request.options.ParseFromString(self._given)
            await self._ask(client, "Create", request, pb.CreateTaskResponse)
        await self._ask(client, "Start", pb.StartRequest(id=name), pb.StartResponse)
        return client

    async def end(self, client: Client, watch: Stopwatch, name: str) -> None:
        """Kill and delete a container, and shut its shim down."""
        await self._ask(client, "Kill", pb.KillRequest(id=name, signal=KILL), Empty)
        await self._ask(client, "Wait", pb.WaitRequest(id=name), pb.WaitResponse)
        with watch.over("Delete"):
            await self._ask(client, "Delete", pb.DeleteRequest(id=name), pb.DeleteResponse)
        # gVisor's shim may exit before its answer is sent.
        with suppress(Unavailable):
            await self._ask(client, "Shutdown", pb.ShutdownRequest(id=name), Empty)

    async def state(self, client: Client, name: str) -> None:
        """Ask for the state of a container."""
        await self._ask(client, "State", pb.StateRequest(id=name), pb.StateResponse)

    async def _ask(
        self, client: Client, method: str, request: Message, answer: type[Message]
    ) -> None:
        metadata = {"containerd-namespace-ttrpc": NAMESPACE}
        await client.call(SERVICE, method, request, answer, timeout_s=LIMIT_S, metadata=metadata)

    def _call(self, name: str, action: str) -> bytes:
        folder = self._bundle.folder
        where = ["-namespace", NAMESPACE, "-address", self._address, "-id", name]
        more = ["-publish-binary", "/bin/true", "-bundle", str(folder), action]
        given = self._given if action == "start" else b""
        argv = [self._binary, *where, *more]
        ran = subprocess.run(
            argv, cwd=folder, env=self._env, input=given, capture_output=True, check=True
        )
        return ran.stdout


def _address(said: bytes) -> str:
    """Parse what `start` printed: a plain address, or JSON."""
    text = said.decode().strip()
    return str(json.loads(text)["address"]) if text.startswith("{") else text


def options_of(config_path: str) -> bytes:
    """Encode runtime options that name a config file."""
    path = config_path.encode()
    value = bytes((0x12, len(path))) + path
    return AnyMessage(type_url="runtimeoptions.v1.Options", value=value).SerializeToString()


async def measure(given: Mapping[str, Any], rounds: Iterable[int]) -> dict[str, Spans]:
    """Return the spans of each variant; a round before does not count."""
    folder = Path(given["folder"]) / "calls"
    made = Bundle(folder / "bundle", Path(given["busybox"]))
    runsc = [given["runsc"], f"--root={folder}/plain", *given["runsc_flags"]]
    shims = callers(given, made)

    async def turn(number: int) -> dict[str, Stopwatch]:
        watches = {name: Stopwatch() for name in ("plain", *shims)}
        plain(watches["plain"], runsc, made)
        for name, caller in shims.items():
            await caller.life(watches[name], f"{name}-{number}")
        return watches

    await turn(-1)
    turns = [await turn(number) for number in rounds]
    return {
        name: {
            step: [span for one in turns for span in one[name].spans[step]]
            for step in turns[0][name].spans
        }
        for name in turns[0]
    }


def callers(given: Mapping[str, Any], made: Bundle) -> dict[str, Caller]:
    """Return the callers of our shim and of gVisor's."""
    address, theirs = given["address"], options_of(given["runsc_toml"])
    return {
        "cryo": Caller(given["cryo"], made, address, given["cryo_env"], b""),
        "runsc": Caller(given["gvisor"], made, address, {}, theirs),
    }
