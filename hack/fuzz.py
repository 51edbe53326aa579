"""Feeds mutated frames, requests and texts to everything that parses external input.

    make fuzz N=1000000 SEED=1
    python -m hack.fuzz -n 1000 --seed 7 --only config.json

Half of the inputs go over a unix socket to a real ttrpc server with every method of containerd's
Task services, the rest to the parsers of files and of the output of runsc and cuda-checkpoint.
Only typed errors may be raised, the server must keep serving, no connection may hang, and memory
must not grow. The path of an input that breaks something is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hack.fuzzing import corpus
from hack.fuzzing.mutate import Mutator
from hack.fuzzing.server import Target, serving

_SLOW_S = 2.0
_GROWTH_MIB = 64.0
_PER_CONNECTION = 50


class Findings:
    """The failures, with the inputs that caused them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.lines: list[str] = []

    def add(self, name: str, data: bytes, what: str) -> None:
        """Store an input that caused a failure."""
        path = self._folder / f"{name.replace('/', '-')}-{len(self.lines)}.bin"
        path.write_bytes(data)
        self.lines.append(f"{name}: {what}: {path}")
        print(self.lines[-1], flush=True)


def parsers(count: int, mutator: Mutator, findings: Findings, only: str) -> Counter[str]:
    """Feed the parsers in turn; return the number of inputs of each."""
    chosen = [one for one in corpus.parsers(findings.scratch) if only in one.name]
    done: Counter[str] = Counter()
    for number in range(count if chosen else 0):
        one = chosen[number % len(chosen)]
        reshaped = one.json and number % 3
        data = mutator.reshape(one.seeds) if reshaped else mutator.mutate(one.seeds)
        began = time.perf_counter()
        try:
            one.read(data)
        except one.allowed:
            done[f"{one.name} refused"] += 1
        except Exception as error:  # noqa: BLE001 - any other exception is a finding
            findings.add(one.name, data, f"{type(error).__name__}: {error}")
        if time.perf_counter() - began > _SLOW_S:
            findings.add(one.name, data, "slow")
        done[one.name] += 1
    return done


async def frames(count: int, mutator: Mutator, findings: Findings) -> Counter[str]:
    """Feed the server, over many connections in sequence."""
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="cryo-fuzz-") as folder:
        async with serving(Path(folder) / "s") as target:
            left = count
            while left > 0:
                batch = min(left, _PER_CONNECTION)
                await _connection(target, mutator, batch, done, findings)
                left -= batch
    return done


async def _connection(
    target: Target, mutator: Mutator, count: int, done: Counter[str], findings: Findings
) -> None:
    """Send the frames of one connection, and check that the server serves the next one."""
    sent = [mutator.frame(target.seeds, number * 2 + 1) for number in range(count)]
    done["frames"] += count
    outcome = await target.feed(b"".join(sent))
    done[f"frames {outcome}"] += count
    if trouble := await target.trouble():
        findings.add("frames", b"".join(sent), trouble)


def memory_mib() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Fuzz, and report."""
    parser = argparse.ArgumentParser(prog="python -m hack.fuzz")
    parser.add_argument("-n", type=int, default=100_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="fuzz only targets whose name contains this")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    mutator = Mutator(random.Random(given.seed))  # noqa: S311 - no secret
    folder = Path(tempfile.mkdtemp(prefix="cryo-fuzz-"))
    findings = Findings(folder)
    done: Counter[str] = Counter()
    began = time.monotonic()
    # What the first inputs load and cache does not count as growth.
    parsers(2000, mutator, findings, given.only)
    before_mib = memory_mib()
    if given.only in "frames":
        done += asyncio.run(frames(given.n // 2, mutator, findings))
    done += parsers(given.n - done["frames"], mutator, findings, given.only)
    grown_mib = memory_mib() - before_mib
    for name, count in sorted(done.items()):
        print(f"{count:10} {name}")
    print(
        f"seed {given.seed}, {time.monotonic() - began:.0f} s, memory grew by {grown_mib:.1f} MiB"
    )
    print(f"{len(findings.lines)} found", *findings.lines, sep="\n")
    if not findings.lines:
        shutil.rmtree(folder)
    return 1 if findings.lines or grown_mib > _GROWTH_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
