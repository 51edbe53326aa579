"""The table of cold and warm starts, which the benchmarks of containers and of pods print."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

# The memory of a container, its copies in the page cache and in the image.
SHARE_OF_MEMORY = 0.8


class Starts(Protocol):
    """Starts something that fills its memory, cold or from an image."""

    def save(self, name: str, mib: int) -> None:
        """Start one until it is saved under a name, and end it."""

    def at_once(self, count: int, mib: int, name: str = "") -> float:
        """Start some at once, by a name from its image; return the seconds until all are ready."""


def fill(mib: int) -> str:
    """Return the script that fills this much memory with random bytes."""
    return f"dd if=/dev/urandom of=/memory bs=1M count={mib} 2>/dev/null"


def parser_for(title: str) -> argparse.ArgumentParser:
    """Return a parser of the options that say what the table has."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--mib", default=[64, 1024], type=int, nargs="*")
    parser.add_argument("--at-once", default=[1, 10], type=int, nargs="+")
    return parser


def conditions(line: str | None = None) -> str:
    """Return when and where it is measured, with this line of containerd if one is used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {memory} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, "
        f"{f'containerd {line}, ' if line else ''}load {os.getloadavg()[0]:.1f}"
    )


def print_starts(title: str, starts: Starts, given: dict[str, Any]) -> None:
    """Print the table of cold and warm starts, which alternate."""
    print(f"\n{title:25} cold ms    warm ms    warm / cold", flush=True)
    for mib in given["mib"]:
        name = f"filled-{mib}"
        starts.save(name, mib)
        for count in given["at_once"]:
            label = f"{mib:5} MiB, {count:3} at once"
            if mib * count > available_mib() * SHARE_OF_MEMORY:
                print(f"{label}    skipped: {available_mib()} MiB of memory are available")
                continue
            cold, warm = [], []
            for _ in range(given["rounds"]):
                cold.append(starts.at_once(count, mib))
                warm.append(starts.at_once(count, mib, name))
            usual, restored = statistics.median(cold), statistics.median(warm)
            ratio = restored / usual
            row = f"{label}    {usual * 1000:8.0f}   {restored * 1000:8.0f}   {ratio:12.2f}"
            print(row, flush=True)


def available_mib() -> int:
    """Return how much memory can be used without swapping."""
    text = Path("/proc/meminfo").read_text("ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) >> 10
