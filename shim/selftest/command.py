"""`cryo selftest`: checkpoints and restores a GPU container on this machine, and compares it.

Exit status: 0 all data was restored intact; 1 it was not; 2 invalid command line; 77 runsc cannot
run here, with the reason in one line on stderr (77 means "skipped" to test harnesses).

    cryo selftest
    cryo selftest --story --processes 4
    cryo selftest --engine phased --json > report.json
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import click

from shim import config
from shim.errors import CryoError
from shim.host.text import printable
from shim.model import EngineName
from shim.runsc.program import which

CANNOT_RUN = 77
_PROCESSES_MAX = 64
_ROUNDS_MAX = 10
_MIB_MAX = 1 << 18
_SIMULATED_MIB_MAX = 1 << 14
_TRY_S = 30.0
# Containers that do not run as root read the files of a selftest; only root may write them.
_UMASK = 0o022


def _cached() -> list[Path]:
    """Return the runsc versions that `make tools` has obtained, newest first."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(os.environ.get("CRYO_CACHE") or Path(base) / "cryoshim")
    found = []
    for name in ("new", "old"):
        try:
            choice = json.loads((cache / f"runsc-{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if path := choice.get("path"):
            found.append(Path(path))
    return found


def find_runsc(given: Path | None) -> Path | None:
    """Return the runsc to use: given, configured, on PATH, or from `make tools`."""
    if given is not None:
        return given.absolute()
    configured = which(_configured())
    candidates = [Path(configured)] if configured else []
    return next((p for p in (*candidates, *_cached()) if os.access(p, os.X_OK)), None)


def _configured() -> str:
    try:
        return config.load().runsc.binary
    except CryoError:
        return config.Config().runsc.binary  # `cryo serve` reports what is wrong with the file


def _has_tool() -> bool:
    """Whether this host has a tool for the CUDA steps: NVIDIA's, or ours for its driver."""
    from shim.cuda.inject import TOOL, find_helper

    return bool(shutil.which(TOOL) or find_helper(config.Cuda()))


def why_not(runsc: Path | None) -> str:
    """Return in one line why runsc cannot run here; empty if it can."""
    from shim.simgpu.simulation import Simulation, can_run

    reason = can_run(runsc)
    if reason or runsc is None:
        return reason
    try:
        with Simulation(runsc) as sim:
            argv = [str(runsc), "--root", str(sim.folder / "probe"), "--network", "none"]
            ran = sim.remote.run([*argv, "--ignore-cgroups", "do", "/bin/true"], timeout_s=_TRY_S)
    except CryoError as error:
        return str(error)
    lines = ran.err.strip().splitlines() or [f"exit status {ran.status}"]
    return f"{runsc} cannot run a container here: {lines[0][:300]}" if ran.status else ""


def _why_no_gpu(*, real: bool, mib: int, torch: bool) -> str:
    """Return why the options for the GPU cannot be met; empty if they can."""
    from shim.simgpu import pytorch

    if not real and torch:
        return "PyTorch needs a real GPU"
    if not real and mib > _SIMULATED_MIB_MAX:
        return f"--gpu-mib is at most {_SIMULATED_MIB_MAX} with a simulated GPU"
    if torch and pytorch.find() is None:
        return "no Python on this host has PyTorch: put one with it first on PATH"
    return ""


def selftest(
    *,
    runsc: Path | None = None,
    engine: EngineName = EngineName.AUTO,
    processes: int = 2,
    story: bool = False,
    as_json: bool = False,
    keep_image: Path | None = None,
    gpu: str = "auto",
    rounds: int = 1,
    gpu_mib: int = 1,
    pytorch: bool = False,
    helper: str = "auto",
) -> int:
    """Run the selftest, print its result on standard output, and return the exit status."""
    from shim.selftest import report
    from shim.selftest.runner import Plan, Runner
    from shim.simgpu import hardware

    os.umask(_UMASK)
    found = find_runsc(runsc)
    no_gpu = "" if gpu == "simulated" else hardware.why_not(tool=_has_tool())
    real = gpu != "simulated" and not no_gpu
    reason = (no_gpu if gpu == "real" else "") or _why_no_gpu(real=real, mib=gpu_mib, torch=pytorch)
    reason = reason or why_not(found)
    if reason or found is None:
        print(printable(f"cryo selftest: cannot run here: {reason}"), file=sys.stderr)
        return CANNOT_RUN
    image = keep_image.absolute() if keep_image else None
    plan = Plan(
        runsc=found,
        engine=engine,
        processes=processes,
        real=real,
        rounds=rounds,
        gpu_mib=gpu_mib,
        keep_image=image,
        pytorch=pytorch,
        helper=helper,
    )
    reporter = report.for_terminal(story=story, as_json=as_json, simulated=not real)
    outcome = Runner(plan, reporter).run()
    return 0 if outcome.passed else 1


@click.command("selftest")
@click.option(
    "--engine",
    type=click.Choice([e.value for e in EngineName]),
    default=EngineName.AUTO.value,
    show_default=True,
    help="engine for the CUDA steps",
)
@click.option(
    "--gpu",
    type=click.Choice(("auto", "real", "simulated")),
    default="auto",
    help="auto: a real GPU if there is one with cuda-checkpoint",
)
@click.option(
    "--processes",
    type=click.IntRange(1, _PROCESSES_MAX),
    default=2,
    show_default=True,
    help="number of processes with GPU memory",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, _ROUNDS_MAX),
    default=1,
    show_default=True,
    help="number of rounds; each saves what the previous one restored",
)
@click.option(
    "--gpu-mib",
    type=click.IntRange(1, _MIB_MAX),
    default=1,
    show_default=True,
    help="GPU memory of each process",
)
@click.option("--pytorch", is_flag=True, help="run a PyTorch workload instead of a driver API one")
@click.option(
    "--helper",
    type=click.Choice(("auto", "never")),
    default="auto",
    help="never: on a real GPU use NVIDIA's cuda-checkpoint for all CUDA steps",
)
@click.option("--json", "as_json", is_flag=True, help="print a report for a bug report")
@click.option("--story", is_flag=True, help="print a timeline")
@click.option(
    "--keep-image", type=click.Path(path_type=Path), help="directory to keep the image in"
)
@click.option("--runsc", type=click.Path(path_type=Path), help="path of runsc")
def command(
    engine: str,
    gpu: str,
    processes: int,
    rounds: int,
    gpu_mib: int,
    pytorch: bool,  # noqa: FBT001  # click passes every option by name
    helper: str,
    as_json: bool,  # noqa: FBT001  # see above
    story: bool,  # noqa: FBT001  # see above
    keep_image: Path | None,
    runsc: Path | None,
) -> None:
    """Checkpoint, kill, restore and compare a GPU container.

    Exits 0 if all data was restored intact, 1 if not, and 77 if runsc cannot run here, with the
    reason in one line on stderr. Needs no sidecar, and leaves nothing behind.
    """
    status = selftest(
        runsc=runsc,
        engine=EngineName(engine),
        processes=processes,
        story=story,
        as_json=as_json or click.get_current_context().find_root().params.get("output") == "json",
        keep_image=keep_image,
        gpu=gpu,
        rounds=rounds,
        gpu_mib=gpu_mib,
        pytorch=pytorch,
        helper=helper,
    )
    raise SystemExit(status)
