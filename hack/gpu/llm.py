"""Checkpoints a language model server under requests, kills it, restores it, and compares tokens.

    python3 -m hack.gpu.llm --runsc /usr/local/bin/runsc --gib 8       # on the GPU of this machine
    python3 -m hack.gpu.llm --runsc ... --cpu                          # a tiny model, without a GPU

Needs a Python with PyTorch, ours or one on PATH. Prints a line of JSON. The requests of a first
server run without interruption. A second server gets the same requests, and is checkpointed while
they are answered; it goes on. Then it is killed, and its image restored: the copy goes on from the
same token. All three must have made the same tokens with the same log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shim.client.blocking import Client
from shim.errors import FailedPrecondition
from shim.model import CheckpointOptions, CheckpointResult, EngineName, RestoreOptions, Stdio
from shim.selftest.guest import TaskGuest
from shim.simgpu import bundle, pytorch
from shim.simgpu.guest import names
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.simulation import Settings, Simulation
from shim.simgpu.waiting import wait_until

_OUT = "/tmp/answers.json"  # noqa: S108  # the guest's own
_GO = "/tmp/go"  # noqa: S108  # as above
_READY_S = 900.0
_FIRST_OUT = "/tmp/first.json"  # noqa: S108  # as above
_FIRST = ("ask", "--requests", "1", "--tokens", "1", "--prompt", "1", "--out", _FIRST_OUT)
_LIBRARIES = "LD_LIBRARY_PATH"


class Servers:
    """Tasks that serve the model, on one machine."""

    def __init__(self, machine: Machine, client: Client, given: argparse.Namespace) -> None:
        """Take the machine and its sidecar.

        Raises:
            FailedPrecondition: no Python here has PyTorch.
        """
        found = pytorch.find()
        if found is None:
            message = "no Python on this host has PyTorch"
            raise FailedPrecondition(message, remedy="put one with it first on PATH")
        self.version = found.version
        self._found = found
        self._machine = machine
        self._client = client
        self._guest = TaskGuest(client, machine.folder)
        self._given = given
        program = Path(__file__).with_name("llm_server.py")
        shutil.copy2(program, machine.folder / "code" / program.name)
        self._program = [str(found.python), "-IB", f"{names.CODE_DIR}/{program.name}"]

    def start(self, name: str) -> float:
        """Start a server; return the seconds until its first token."""
        given = self._given
        folder = self._machine.bundle(name, Settings(gpu=not given.cpu, real=True))
        path = folder / "config.json"
        content = json.loads(path.read_text("utf-8"))
        shape = ["--gib", str(given.gib), "--device", "cpu" if given.cpu else "cuda"]
        work = ["--requests", str(given.requests), "--tokens", str(given.tokens)]
        content["process"]["args"] = [
            *self._program, "both", *shape, *work, "--out", _OUT, "--go", _GO
        ]  # fmt: skip
        env = content["process"]["env"]
        env += ["HOME=/", "OMP_NUM_THREADS=2", "CUBLAS_WORKSPACE_CONFIG=:4096:8"]
        if not any(one.startswith(_LIBRARIES) for one in env) and _LIBRARIES in os.environ:
            env.append(f"{_LIBRARIES}={os.environ[_LIBRARIES]}")
        for place in self._found.places:
            point = bundle.mount_point(place)
            if point not in {"/", *(mount["destination"] for mount in content["mounts"])}:
                content["mounts"].append(bundle.bind(point, point))
        path.write_text(json.dumps(content), "utf-8")
        log = f"file://{self.log(name)}"
        began = time.monotonic()
        self._client.create(name, str(folder), stdio=Stdio(stdout=log, stderr=log))
        self._client.start(name)
        return self.first_token(name, began)

    def log(self, name: str) -> Path:
        """Return the file of a server's output."""
        return self._machine.folder / f"{name}.log"

    def first_token(self, name: str, began: float) -> float:
        """Send a request, and return the seconds from `began` to its answer."""
        self.run(name, [*self._program, *_FIRST])
        return round(time.monotonic() - began, 3)

    def go(self, name: str) -> None:
        """Let the requests begin."""
        self.run(name, ["/usr/bin/touch", _GO])

    def made(self, name: str) -> int:
        """Return how many tokens the requests have."""
        ran = self._guest.exec(name, ["/bin/cat", f"{_OUT}.count"])
        return int(ran.out or 0) if not ran.status else 0

    def answers(self, name: str) -> list[list[dict[str, Any]]]:
        """Wait for the end of the requests; return their tokens."""

        def ended() -> bool:
            return not self._guest.exec(name, ["/bin/ls", _OUT]).status

        wait_until(ended, f"the answers of {name}", _READY_S)
        found: list[list[dict[str, Any]]] = json.loads(self.run(name, ["/bin/cat", _OUT]))
        return found

    def run(self, name: str, argv: Sequence[str]) -> str:
        """Run a program in a server's container.

        Raises:
            FailedPrecondition: it failed.
        """
        ran = self._guest.exec(name, argv, timeout_s=_READY_S)
        if ran.status:
            said = f"{ran.err.strip()[-500:]} {self.log(name).read_text('utf-8')[-1000:]}"
            message = f"{argv[0]} in {name}: status {ran.status}: {said.strip()}"
            raise FailedPrecondition(message)
        return ran.out

    def checkpoint(self, name: str) -> tuple[CheckpointResult, int]:
        """Checkpoint a server once a quarter of the tokens is made; return how many that were."""
        whole = self._given.requests * self._given.tokens
        wait_until(lambda: self.made(name) >= whole // 4, "a part of the tokens", _READY_S)
        options = CheckpointOptions(
            image_path=str(self._machine.image(name)), engine=EngineName(self._given.engine)
        )
        made = self.made(name)
        return self._client.checkpoint(name, options), made

    def restore(self, name: str, image: str) -> tuple[float, dict[str, float]]:
        """Restore a server; return the seconds to its first token, and those of the phases."""
        began = time.monotonic()
        result = self._client.restore(name, RestoreOptions(image_path=image))
        return self.first_token(name, began), dict(result.timings_s)

    def end(self, name: str) -> None:
        """Kill and delete a server."""
        self._client.kill(name, 9, everyone=True)
        self._client.wait(name)
        self._client.delete(name)


def compare(servers: Servers, given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it; return what was seen."""
    cold_s = servers.start("whole")
    servers.go("whole")
    wanted = servers.answers("whole")
    servers.end("whole")
    servers.start("job")
    servers.go("job")
    saved, made = servers.checkpoint("job")
    original = servers.answers("job")
    servers.end("job")
    restored_s, phases = servers.restore("copy", saved.image_path)
    copy = servers.answers("copy")
    servers.end("copy")
    whole = sum(map(len, wanted))
    same = {"original": original == wanted, "copy": copy == wanted}
    return {
        "pytorch": servers.version,
        "device": "cpu" if given.cpu else "cuda",
        "gib": given.gib,
        "engine": saved.engine,
        "tokens": whole,
        "different_tokens": len({one["id"] for each in wanted for one in each}),
        "tokens_before_checkpoint": made,
        "same_ids": {name: _ids(one) == _ids(wanted) for name, one in
                     (("original", original), ("copy", copy))},
        "same": same,
        "largest_difference": max(_difference(one, wanted) for one in (original, copy)),
        "cold_first_token_s": cold_s,
        "restore_first_token_s": restored_s,
        "restore_s": phases,
        "checkpoint_s": dict(saved.timings_s),
        "image_bytes": saved.size_bytes,
        "ok": all(same.values()) and 0 < made < whole,
    }  # fmt: skip


def _ids(answers: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[one["id"] for one in each] for each in answers]


def _difference(found: list[list[dict[str, Any]]], wanted: list[list[dict[str, Any]]]) -> float:
    pairs = ((a, b) for one, other in zip(found, wanted, strict=False)
             for a, b in zip(one, other, strict=False))  # fmt: skip
    return max((abs(a["logprob"] - b["logprob"]) for a, b in pairs), default=0.0)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python3 -m hack.gpu.llm")
    parser.add_argument("--runsc", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    parser.add_argument("--gib", type=float, default=0.0, help="size of the weights; 0: a tiny one")
    parser.add_argument("--engine", choices=("auto", "builtin", "phased"), default="auto")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()
    with Simulation(given.runsc) if given.cpu else Hardware(given.runsc) as machine:
        machine.start_sidecar()
        with Client(machine.address, "llm") as client:
            try:
                seen = compare(Servers(machine, client, given), given)
            except FailedPrecondition as error:
                print(f"hack.gpu.llm: {error}", file=sys.stderr)
                return 1
    print(json.dumps(seen))
    return 0 if seen["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
