"""Measures what our shim and gVisor's own add to `runsc create` and `runsc delete`.

Part of hack/bench/shims.py. The program acts as containerd does: it runs the shim's binary for
`start`, calls Create, Start, Kill, Wait, Delete and Shutdown over ttrpc, and runs the binary again
for `delete`, alternating with the plain runsc commands on the same bundle. What a shim adds is the
time of both runs of its binary, and of Create and Delete minus that of runsc.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim.api.containerd.task.v3 import shim_pb2 as pb
from shim.service.ttrpc.client import Client
from tests.containerd.gvisor import ANNOTATIONS

SERVICE = "containerd.task.v2.Task"
NAMESPACE = "bench"
STEPS = ("start", "Create", "Delete", "delete")
KILL = 9
SUBREAPER = 36
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

    def medians(self) -> dict[str, float]:
        """Return the medians in milliseconds."""
        return {step: statistics.median(found) * 1000 for step, found in self.spans.items()}


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
    with watch.over("Create"):
        _run([*runsc, "create", f"--bundle={bundle.folder}", f"--pid-file={pid_file}", "plain"])
    _run([*runsc, "start", "plain"])
    _run([*runsc, "kill", "plain", "KILL"])
    # This process has adopted the sandbox; runsc regards a zombie as running.
    os.waitpid(int(pid_file.read_text("ascii")), 0)
    with watch.over("Delete"):
        _run([*runsc, "delete", "plain"])


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
        with watch.over("start"):
            address = _address(self._call(name, "start"))
        client = await Client.connect(address)
        try:
            with watch.over("Create"):
                request = pb.CreateTaskRequest(id=name, bundle=str(self._bundle.folder))
                request.options.ParseFromString(self._given)
                await self._ask(client, "Create", request, pb.CreateTaskResponse)
            await self._ask(client, "Start", pb.StartRequest(id=name), pb.StartResponse)
            await self._ask(client, "Kill", pb.KillRequest(id=name, signal=KILL), Empty)
            await self._ask(client, "Wait", pb.WaitRequest(id=name), pb.WaitResponse)
            with watch.over("Delete"):
                await self._ask(client, "Delete", pb.DeleteRequest(id=name), pb.DeleteResponse)
            await self._ask(client, "Shutdown", pb.ShutdownRequest(id=name), Empty)
        finally:
            await client.close()
        with watch.over("delete"):
            self._call(name, "delete")

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


def _run(argv: Sequence[str]) -> None:
    """Run a command whose streams a sandbox may keep open."""
    nothing = subprocess.DEVNULL
    subprocess.run(argv, stdin=nothing, stdout=nothing, stderr=nothing, check=True, timeout=LIMIT_S)


def options_of(config_path: str) -> bytes:
    """Encode runtime options that name a config file."""
    path = config_path.encode()
    value = bytes((0x12, len(path))) + path
    return AnyMessage(type_url="runtimeoptions.v1.Options", value=value).SerializeToString()


async def measure(given: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the medians of each variant, in milliseconds, without the first round."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    folder = Path(given["folder"]) / "calls"
    made = Bundle(folder / "bundle", Path(given["busybox"]))
    runsc = [given["runsc"], f"--root={folder}/plain", *given["runsc_flags"]]
    callers = {
        "cryo": Caller(given["cryo"], made, given["address"], given["cryo_env"], b""),
        "runsc": Caller(
            given["gvisor"], made, given["address"], {}, options_of(given["runsc_toml"])
        ),
    }
    watches = {name: Stopwatch() for name in ("plain", *callers)}
    for number in range(given["rounds"] + 1):
        if number == 1:
            watches = {name: Stopwatch() for name in watches}
        plain(watches["plain"], runsc, made)
        for name, caller in callers.items():
            await caller.life(watches[name], f"{name}-{number}")
    return {name: watch.medians() for name, watch in watches.items()}


def table(given: dict[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Measure, and return the lines to print."""
    found = asyncio.run(measure(given))
    base = found.pop("plain")
    head = f"{'what the shim adds, ms':25}" + "".join(f"{step:>10}" for step in STEPS)
    lines = [f"{head}{'all':>10}"]
    for name, spans in found.items():
        added = [spans[step] - base.get(step, 0.0) for step in STEPS]
        cells = "".join(f"{each:10.1f}" for each in (*added, sum(added)))
        lines.append(f"{titles[name]:25}{cells}")
    return [*lines, f"(runsc create {base['Create']:.1f} ms, delete {base['Delete']:.1f} ms)"]
