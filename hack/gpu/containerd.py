"""Tests a container with a real GPU under a real containerd, with ctr's own commands.

    python3 -m hack.gpu.containerd --runsc RUNSC --containerd FOLDER --busybox BUSYBOX
    python3 -m hack.gpu.containerd ... --no-gpu            # the same steps without a GPU

The container is run, parked by a pause, resumed, saved into an image by `ctr containers
checkpoint`, killed, and restored from the image; all data is compared. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shim.errors import CryoError
from shim.simgpu import bundle, hardware
from shim.simgpu.hardware import Hardware
from shim.simgpu.simulation import Settings
from tests.containerd import image
from tests.containerd.builds import ContainerdBuild
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.gpu import CtrGuest, image_flags, workload
from tests.containerd.place import settle

_READY_S = 60.0


def gpu_flags() -> list[str]:
    """Return the flags of `ctr run` that request the GPUs as images do, and mount libcuda.so.1."""
    flags = ["--env", "NVIDIA_VISIBLE_DEVICES=all", "--annotation", "io.cryo.park=true"]
    found = hardware.library()
    if found is None:
        return flags
    flags += ["--env", f"LD_LIBRARY_PATH={found.parent}"]
    point = bundle.mount_point(str(found.parent))
    if point == "/":
        return flags
    return [*flags, "--mount", f"type=bind,src={point},dst={point},options=rbind:ro"]


def used_mib() -> int:
    """Return how much memory of the first GPU is used."""
    argv = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return int(done.stdout.split()[0])


class Trial:
    """The steps, with the duration and result of each."""

    def __init__(self, sim: Hardware, cryo: Cryo, settings: Settings) -> None:
        self._sim = sim
        self._cryo = cryo
        self._settings = settings
        self._guest = CtrGuest(cryo)
        self.seconds: dict[str, float] = {}
        self.used_mib: dict[str, int] = {}
        self.fine: dict[str, bool] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and record the used GPU memory after it."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)
        if self._settings.gpu:
            self.used_mib[name] = used_mib()

    def look(self, when: str, name: str) -> None:
        """Record whether a container works and its memory is intact."""
        self.fine[when] = self._sim.fine(self._guest, name, 30.0)

    def run(self) -> None:
        """Run all steps."""
        gpu = gpu_flags() if self._settings.gpu else []
        how = ("--runtime", RUNTIME, "--snapshotter", "native", *image_flags(self._sim), *gpu)
        ctr = self._cryo.ctr
        with self.step("run"):
            ctr("run", "--detach", *how, image.REFERENCE, "job", *workload(self._settings))
            self._sim.until_ready(self._guest, "job", _READY_S)
        with self.step("pause"):
            ctr("tasks", "pause", "job")
        with self.step("resume"):
            ctr("tasks", "resume", "job")
        self.look("resumed", "job")
        with self.step("checkpoint"):
            saved = self._cryo.save("job", "--rw")
        self.look("saved", "job")
        with self.step("remove"):
            self._cryo.remove("job")
        with self.step("restore"):
            self._cryo.bring_back(saved, "copy", "--rw")
        self.look("restored", "copy")
        self._cryo.remove("copy")


def attempt(given: argparse.Namespace, archive: Path) -> dict[str, object]:
    """Create a machine with a containerd, and run the trial on it."""
    settings = Settings(
        processes=2,
        gpu=given.gpu,
        real=given.gpu,
        device_bytes=given.gpu_mib << 20,
        resident_mib=16,
    )
    with Hardware(given.runsc) as sim:
        build = ContainerdBuild(given.line, given.containerd.absolute())
        with Cryo(build, settle(sim.folder, sim.remote), given.runsc) as cryo:
            trial = Trial(sim, cryo, settings)
            cryo.import_image(archive)
            result: dict[str, object] = {}
            try:
                trial.run()
            except (CryoError, AssertionError) as error:
                result = {"error": str(error)[-1500:], "log": cryo.log_tail()}
            version = cryo.ctr("version").out.split()
    fine = len(trial.fine) == len(("resumed", "saved", "restored")) and all(trial.fine.values())
    seen = {"seconds": trial.seconds, "used_mib": trial.used_mib, "fine": trial.fine}
    return {"ok": fine and not result, "ctr": version[2:3], **seen, **result}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python3 -m hack.gpu.containerd")
    parser.add_argument("--runsc", type=Path, required=True)
    parser.add_argument(
        "--containerd", type=Path, required=True, help="directory of containerd and ctr"
    )
    parser.add_argument("--line", default="2.4", help="release line of this containerd")
    parser.add_argument("--busybox", type=Path, required=True, help="static busybox, for an image")
    parser.add_argument(
        "--gpu-mib", type=int, default=256, help="GPU memory of each of two processes"
    )
    parser.add_argument("--no-gpu", dest="gpu", action="store_false")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = image.write(Path(folder) / "image.tar", given.busybox)
        seen = attempt(given, archive)
    print(json.dumps(seen))
    return 0 if seen["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
