"""Measures how long the driver alone takes to freeze and thaw a process, outside a sandbox.

    python3 -m hack.gpu.alone 1024 8192

The arguments are sizes in MiB. Prints the duration of each call of the driver, as cryo-cuda
reported it, and whether the memory was restored intact.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import IO, cast

from shim.cuda import native

_LIMIT_S = 300
_HOLDER = """
import sys
from shim.simgpu.guest import pattern
from shim.simgpu.guest.libcuda import Cuda

cuda = Cuda(on_loss=print)
weights = pattern.Weights("alone", int(sys.argv[1]) << 20)
held = cuda.load(weights)
print("ready", flush=True)
for _ in sys.stdin:
    print("wrong", cuda.wrong(held, weights), flush=True)
"""


def batch(verb: str, pid: int) -> list[dict[str, object]]:
    """Run cryo-cuda with one verb; return its report of each call."""
    argv = [native.path(), "--batch", verb, "--pids", str(pid), "--timeout", "20000"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    return [line for line in map(json.loads, done.stdout.splitlines()) if "ms" in line]


def measure(mib: int) -> None:
    """Freeze and thaw one process, and print how long each call took."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(mib)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        questions, answers = cast("tuple[IO[str], IO[str]]", (holder.stdin, holder.stdout))
        said = [answers.readline().strip()]
        result = [*batch("freeze", holder.pid), *batch("thaw", holder.pid)]
        questions.write("?\n")
        questions.flush()
        said.append(answers.readline().strip())
        questions.close()
    print(json.dumps({"gpu_bytes": mib << 20, "said": said, "calls": result}), flush=True)


def main() -> None:
    """Run the command."""
    for text in sys.argv[1:]:
        measure(int(text))


if __name__ == "__main__":
    main()
