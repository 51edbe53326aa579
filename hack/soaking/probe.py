"""An exec probe: runs a short program in a container, repeatedly, through containerd."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from hack.examples import containerd_pb2 as pb
from hack.soaking import books
from hack.soaking.gauge import Gauge
from shim.simgpu.waiting import PACKAGE_ROOT
from tests.builds import RunscBuild, find_program
from tests.containerd import image
from tests.containerd.api import Api
from tests.containerd.builds import LINES, find_containerd
from tests.containerd.cryo import Cryo, comm
from tests.containerd.place import private_place

_TASKS = "containerd.services.tasks.v1.Tasks"
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_AT_ONCE = 8
_LOOK_S = 5.0
_WARM_S = 60.0


class Probe:
    """Runs `true` in a container at a fixed rate, each time on a thread of a pool."""

    def __init__(self, api: Api, task: str, every_s: float) -> None:
        self._api = api
        self._task = task
        self._every_s = every_s
        self._free = threading.Semaphore(_AT_ONCE)
        self.done = 0
        self.late = 0
        self.failures: list[str] = []

    def run(self, until_s: float) -> None:
        """Start an exec at each interval, unless too many are running."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            turn, number = time.monotonic(), 0
            while time.monotonic() < until_s:
                if self._free.acquire(blocking=False):
                    number += 1
                    pool.submit(self._turn, f"probe-{int(turn)}-{number}")
                else:
                    self.late += 1
                turn += self._every_s
                time.sleep(max(0.0, turn - time.monotonic()))

    def _turn(self, exec_id: str) -> None:
        try:
            status = self._exec(exec_id)
            if status:
                self.failures.append(f"{exec_id} exited with status {status}")
            self.done += 1
        except grpc.RpcError as error:
            self.failures.append(f"{exec_id}: {error}")
        finally:
            self._free.release()

    def _exec(self, exec_id: str) -> int:
        """Create an exec, start it, wait until it exits, and delete it, as for a kubelet."""
        process = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        spec = AnyMessage(type_url=_PROCESS, value=json.dumps(process).encode())
        one = {"container_id": self._task, "exec_id": exec_id}
        ask = self._api.ask
        added = pb.ExecProcessRequest(container_id=self._task, exec_id=exec_id, spec=spec)
        ask(_TASKS, "Exec", added, pb.Nothing)
        ask(_TASKS, "Start", pb.StartRequest(**one), pb.StartResponse)
        status = ask(_TASKS, "Wait", pb.WaitRequest(**one), pb.WaitResponse).exit_status
        ask(_TASKS, "DeleteProcess", pb.DeleteProcessRequest(**one), pb.DeleteResponse)
        return int(status)


@contextlib.contextmanager
def machine(runsc: RunscBuild) -> Iterator[tuple[Cryo, Path]]:
    """Yield the newest containerd with our shim, and the directory for the shims' counts."""
    with private_place() as place, tempfile.TemporaryDirectory() as scratch:
        arming = Path(scratch) / "arming"
        arming.mkdir()
        (arming / "sitecustomize.py").write_text(books.ARMING, "utf-8")
        path = os.pathsep.join((str(arming), str(PACKAGE_ROOT)))
        env = {books.ENV: scratch, "PYTHONPATH": path}
        with Cryo(find_containerd(LINES[-1]), place, runsc.path, env=env) as cryo:
            cryo.import_image(image.write(Path(scratch) / "cryobox.tar", find_program("busybox")))
            yield cryo, Path(scratch)


def probe(runsc: RunscBuild, minutes: float, every_s: float) -> tuple[Gauge, Probe]:
    """Probe one container for some minutes, and sample its shim meanwhile."""
    with machine(runsc) as (cryo, folder), cryo.container("sleep", "1000000") as name:
        forks = cryo.processes(r"shim\.entry\.shimbin\.forkserver")
        (shim,) = (pid for pid in forks if comm(pid) == "cryo-shim")
        state = Path(f"/proc/{shim}/root{cryo.state}")  # as in the shim's namespace
        gauge = Gauge(shim, (state,), lambda: sum(books.look(folder, shim).values()))
        with Api(cryo) as api:
            made = Probe(api, name, every_s)
            # Filling caches and bounded tables does not count as growth.
            _watch(made, gauge, min(_WARM_S, minutes * 60))
            gauge.samples.clear()
            _watch(made, gauge, minutes * 60)
    return gauge, made


def _watch(made: Probe, gauge: Gauge, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    running = threading.Thread(target=made.run, args=(until_s,))
    running.start()
    while running.is_alive():
        running.join(_LOOK_S)
        print(f"{gauge.look()} {made.done} execs", flush=True)
