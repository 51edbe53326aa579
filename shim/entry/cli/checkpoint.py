"""The main job as commands: tasks checkpoint, tasks restore."""

from __future__ import annotations

import sys

import click

from shim.entry.cli.params import DEVICE_MAP, DURATION, PATH, PLACE, RENAME
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import size
from shim.host.text import printable
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Connections,
    CudaMode,
    EngineName,
    ExecProcesses,
    MemberOptions,
    RestoreOptions,
    RestoreResult,
    Stdio,
    Verify,
)


@click.command("checkpoint")
@click.option("--exit", "exit_", is_flag=True, help="stop the task once its image is complete")
@click.option(
    "--image-path", type=PATH, default="", help="where the image goes; else below paths.images"
)
@click.option(
    "--engine",
    type=click.Choice([name.value for name in EngineName]),
    help="who runs the CUDA steps: runsc itself, or we from outside [default: as configured]",
)
@click.option(
    "--cuda",
    type=click.Choice([mode.value for mode in CudaMode]),
    help="find GPU state out, insist on it, or look away [default: as configured]",
)
@click.option(
    "--connections",
    type=click.Choice([policy.value for policy in Connections]),
    help="go on or refuse where a restored copy would have lost connections "
    "[default: as configured]",
)
@click.option(
    "--exec-processes",
    type=click.Choice([policy.value for policy in ExecProcesses]),
    help="what to do about GPU processes that an exec has started: no restore brings them back "
    "[default: as configured]",
)
@click.option("--no-seal", is_flag=True, help="leave the image without digests")
@click.option("--compress", is_flag=True, help="a smaller image, more slowly")
@click.option("--direct", is_flag=True, help="write past the page cache")
@click.option("--timeout", "timeout_s", type=DURATION, default=0.0, help="for the whole of it")
@click.argument("task")
@pass_settings
def checkpoint(
    settings: Settings,
    task: str,
    image_path: str,
    engine: str | None,
    cuda: str | None,
    connections: str | None,
    exec_processes: str | None,
    timeout_s: float,
    *,
    exit_: bool,
    no_seal: bool,
    compress: bool,
    direct: bool,
) -> None:
    """Freeze and save a task, and let it run on unless --exit. Prints the image's path.

    All or nothing: a failure, or Ctrl-C, leaves the task running as before.
    """
    options = CheckpointOptions(
        image_path=image_path,
        exit=exit_,
        engine=EngineName(engine) if engine else None,
        cuda=CudaMode(cuda) if cuda else None,
        connections=Connections(connections) if connections else None,
        exec_processes=ExecProcesses(exec_processes) if exec_processes else None,
        timeout_s=timeout_s,
        seal=not no_seal,
        compress=compress,
        direct=direct,
    )
    with settings.client() as client, Renderer() as renderer:
        result = client.checkpoint(task, options, renderer.report)
    settings.show(result, result.image_path)
    _summary(result, f"checkpoint of {task}: {size(result.size_bytes)}", renderer.warnings)


@click.command("restore")
@click.option("--image-path", type=PATH, required=True, help="the image")
@click.option("--bundle", type=PATH, default="", help="the bundle; without it, the image's own")
@click.option(
    "--verify",
    type=click.Choice([mode.value for mode in Verify]),
    default="auto",
    help="how much of the image is read again first",
)
@click.option("--background", is_flag=True, help="run while the rest of memory still loads")
@click.option("--direct", is_flag=True, help="read past the page cache")
@click.option("--device-map", type=DEVICE_MAP, help="GPU UUIDs, old to new")
@click.option(
    "--member",
    "members",
    type=RENAME,
    multiple=True,
    help="another id for a container of a pod, which otherwise gets the one in the image",
)
@click.option(
    "--member-bundle",
    "member_bundles",
    type=PLACE,
    multiple=True,
    help="the bundle of a container of a pod, by its id in the image",
)
@click.option(
    "--image-hooks", is_flag=True, help="without --bundle: run the hooks of the image's config.json"
)
@click.option(
    "--untrusted-folder", is_flag=True, help="take an image that users other than root can change"
)
@click.option("--digest", default="", help="the manifest's digest: refuse any other image")
@click.option("--stdin", type=PATH, default="", help="file or fifo")
@click.option("--stdout", type=PATH, default="", help="file or fifo")
@click.option("--stderr", type=PATH, default="", help="file or fifo")
@click.option("--timeout", "timeout_s", type=DURATION, default=0.0, help="for the whole of it")
@click.argument("task")
@pass_settings
def restore(
    settings: Settings,
    task: str,
    image_path: str,
    bundle: str,
    verify: str,
    device_map: dict[str, str] | None,
    members: tuple[tuple[str, str], ...],
    member_bundles: tuple[tuple[str, str], ...],
    stdin: str,
    stdout: str,
    stderr: str,
    timeout_s: float,
    digest: str,
    *,
    background: bool,
    direct: bool,
    image_hooks: bool,
    untrusted_folder: bool,
) -> None:
    """Bring an image back as the new running task TASK.

    The image of a pod brings all of its containers back: the sandbox as TASK, the others under
    the ids that they had, or that --member gives. With --bundle each of them needs a bundle of
    yours; without, the image brings every config.json, and their hooks are left out.

    All or nothing: a failure, or Ctrl-C, leaves nothing behind, and the image as it was.
    """
    options = RestoreOptions(
        image_path=image_path,
        bundle=bundle,
        stdio=Stdio(stdin=stdin, stdout=stdout, stderr=stderr),
        verify=Verify(verify),
        background=background,
        direct=direct,
        timeout_s=timeout_s,
        device_map=device_map or {},
        members=_members(dict(members), dict(member_bundles)),
        image_hooks=image_hooks,
        untrusted_folder=untrusted_folder,
        digest=digest,
    )
    with settings.client() as client, Renderer() as renderer:
        result = client.restore(task, options, renderer.report)
    settings.show(result, "")
    _summary(result, f"restore of {task}: pid {result.pid}", renderer.warnings)


def _members(ids: dict[str, str], bundles: dict[str, str]) -> tuple[MemberOptions, ...]:
    return tuple(
        MemberOptions(saved=saved, id=ids.get(saved, ""), bundle=bundles.get(saved, ""))
        for saved in dict.fromkeys([*ids, *bundles])
    )


def _summary(result: CheckpointResult | RestoreResult, text: str, shown: set[str]) -> None:
    """Tell people, on stderr, what was done and what is to be minded; stdout is for programs."""
    took_s = sum(result.timings_s.values())
    count = len(result.processes)
    noun = "process" if count == 1 else "processes"
    gpu = f", {count} GPU {noun} by engine {result.engine}" if count else ""
    pod = f", with {', '.join(result.members)}" if result.members else ""
    print(printable(f"{text}{pod}{gpu}, {took_s:.2f} s"), file=sys.stderr)
    for warning in result.warnings:
        if warning in shown:
            continue
        print(printable(f"warning: {warning}"), file=sys.stderr)


COMMANDS = (checkpoint, restore)
