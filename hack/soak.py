"""Long runs that check that nothing grows: files, threads, memory, mounts.

    make soak
    python -m hack.soak --cycles 1000 --minutes 30 --tasks 200 --probe-minutes 30 --docs docs

The first run saves, stops and restores a task with four GPU processes under load, and compares all
data. The second runs random operations on many tasks at once. The third runs a program in a
container of a real containerd ten times a second, like an exec probe of Kubernetes. The resources
of the sidecar and its supervisor, or of the shim, are plotted. The section of a run that is left
out (0) stays as it is. Exit status 1: something has grown or is left over, or an operation failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from hack import figures
from hack.bench import result
from hack.soaking.crowd import Crowd, leftovers
from hack.soaking.gauge import Gauge, complaints
from hack.soaking.plot import svg
from hack.soaking.probe import probe
from shim.client import Client
from shim.model import CheckpointOptions, RestoreOptions
from shim.simgpu.simulation import Settings, Simulation
from tests.builds import find
from tests.faults.machine import Inside

_TASK = "job"
_PROCESSES = 4
_LOOK_S = 5.0
_LAST_S = 120.0
_WORKERS = 4
_GIB = 1 << 30
_EVERY_S = 0.1
_HEAD = "# Long runs"
_FIFTHS = "Change from the first fifth to the last, medians"


def cycles(sim: Simulation, count: int, said: list[str]) -> Gauge:
    """Checkpoint, end and restore one task `count` times, and verify it regularly."""
    client, inside = Client(sim.address), Inside(sim)
    bundle = sim.bundle(_TASK, Settings(processes=_PROCESSES, period_s=0.05), inject_tool=False)
    client.create(_TASK, str(bundle))
    client.start(_TASK)
    sim.until_ready(inside, _TASK)
    gauge = Gauge(sim.sidecar_pid, (sim.folder / "state", sim.folder / "images"))
    began, each = time.monotonic(), max(1, count // 200)
    for number in range(count):
        image = str(sim.image("soak"))
        client.checkpoint(_TASK, CheckpointOptions(image_path=image, exit=True))
        client.delete(_TASK)
        client.restore(_TASK, RestoreOptions(image_path=image, bundle=str(bundle)))
        client.remove(image)
        if number % each == 0:
            status = sim.verify(inside, _TASK)
            if not status.intact or len(status.processes) != _PROCESSES:
                said.append(f"cycle {number}: {status}")
            gauge.look()
            print(f"cycle {number}: {gauge.samples[-1]}", flush=True)
    spent = time.monotonic() - began
    print(f"{count} cycles in {spent:.0f} s", flush=True)
    client.kill(_TASK, 9)
    client.wait(_TASK)
    client.delete(_TASK)
    client.close()
    return gauge


def crowd(sim: Simulation, count: int, minutes: float, said: list[str]) -> tuple[Gauge, Crowd]:
    """Run random operations on many tasks for some minutes."""
    gauge = Gauge(sim.sidecar_pid, (sim.folder / "state", sim.folder / "images"))
    # What is loaded or cached at first use does not count as growth.
    detach(Crowd(sim, _WORKERS, gpus=_WORKERS, seed=0), gauge, min(1.0, minutes))
    gauge.samples.clear()
    gauge.look()
    made = Crowd(sim, count, gpus=count // 10, seed=1)
    detach(made, gauge, minutes)
    gauge.look()
    said += made.failures[:20]
    said += [f"left: {path}" for path in leftovers(sim)]
    return gauge, made


def detach(made: Crowd, gauge: Gauge, minutes: float) -> None:
    """Run a crowd for some minutes, sample the resources regularly, and remove it."""
    threads = made.begin(_WORKERS)
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        print(f"{gauge.look()} {sum(made.done.values())} operations", flush=True)
    made.stop()
    for thread in threads:
        thread.join(_LAST_S)
    made.end()


def report(folder: Path, sections: dict[str, list[str]], plots: dict[str, str]) -> None:
    """Write the plots, and in the document the sections of these runs in place of earlier ones."""
    for name, text in plots.items():
        (folder / f"soak-{name}.svg").write_text(text, "utf-8")
    path = folder / "soak.md"
    head, *old = path.read_text("utf-8").rstrip("\n").split("\n## ") if path.exists() else [_HEAD]
    kept = [part for part in old if not any(f"(soak-{name}.svg)" in part for name in sections)]
    new = ["\n".join(lines).removeprefix("## ").strip() for lines in sections.values()]
    parts = (head.strip(), *(f"## {part.strip()}" for part in (*kept, *new)))
    path.write_text("\n\n".join(parts) + "\n", "utf-8")


def main() -> int:
    """Run the selected runs, and report."""
    parser = argparse.ArgumentParser(prog="python -m hack.soak")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--probe-minutes", type=float, default=30)
    parser.add_argument("--docs", type=Path, help="write soak.md and its plots there")
    given = parser.parse_args()
    said: list[str] = []
    build = find("new")
    runsc = build.path
    plots: dict[str, str] = {}
    sections: dict[str, list[str]] = {}

    def note(name: str, title: str, gauge: Gauge, what: str, more: str, command: str) -> None:
        grown = gauge.left() if name == "crowd" else gauge.growth()
        plots[name] = svg(gauge.samples, title)
        made = (
            f"Command: `python -m hack.soak {command} --docs docs`, {_today()}, {_host()}, runsc "
        )
        sections[name] = [
            *_section(name, title, gauge, what, grown),
            *([more, ""] if more else []),
            f"{made}{runsc.parent.name}.",
        ]
        said.extend(complaints(grown))

    if given.cycles:
        with Simulation(runsc, capacity_bytes=8 * _GIB) as sim:
            sim.start_sidecar()
            gauge = cycles(sim, given.cycles, said)
        title = f"{given.cycles} checkpoints and restores of 4 GPU processes under load"
        command = f"--cycles {given.cycles} --minutes 0 --probe-minutes 0"
        note("cycles", title, gauge, _FIFTHS, "", command)
    if given.minutes:
        with Simulation(runsc, capacity_bytes=8 * _GIB) as sim:
            sim.start_sidecar()
            gauge, made = crowd(sim, given.tasks, given.minutes, said)
        title = f"{given.tasks} tasks, {sum(made.done.values())} random operations"
        what = (
            "Change from the start until all tasks are removed; "
            "of memory, from the middle third to the last"
        )
        done = ", ".join(f"{count} {name}" for name, count in sorted(made.done.items()))
        command = f"--cycles 0 --minutes {given.minutes:g} --tasks {given.tasks} --probe-minutes 0"
        note("crowd", title, gauge, what, done, command)
    if given.probe_minutes:
        gauge, probed = probe(build, given.probe_minutes, _EVERY_S)
        said += probed.failures[:20]
        title = f"{probed.done} execs in a container of containerd"
        more = (
            f"One each <!--set-->{_EVERY_S * 1000:g} ms<!--/-->, resources of the shim only. "
            f"{len(probed.failures)} execs failed; {probed.late} were "
            "skipped because eight were running."
        )
        command = f"--cycles 0 --minutes 0 --probe-minutes {given.probe_minutes:g}"
        note("probe", title, gauge, _FIFTHS, more, command)
    if given.docs:
        report(given.docs, sections, plots)
        source = result.Source(
            machine=f"{_host()}, runsc {runsc.parent.name}, simulated GPU",
            date=_today(),
            command="make soak",
        )
        figures.record_in(result.COMMITTED, [given.docs / "soak.md"], "soak", source)
    lines = [line for section in sections.values() for line in section]
    print("\n".join([*lines, "", f"{len(said)} complaints", *said]))
    return 1 if said else 0


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _host() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}"


def _section(name: str, title: str, gauge: Gauge, what: str, grown: dict[str, float]) -> list[str]:
    line = ", ".join(f"{thing.replace('_mib', ' (MiB)')} {by:+g}" for thing, by in grown.items())
    minutes = f"{gauge.samples[-1].at_s / 60:.0f} minutes"
    return [
        f"## {title}",
        "",
        f"It took <!--fig:soak.{name}.duration-->{minutes}<!--/-->. {what}: {line}.",
        "",
        f"![{title}](soak-{name}.svg)",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
