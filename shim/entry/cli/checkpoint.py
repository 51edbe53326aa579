"""The commands tasks checkpoint and tasks restore."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
from msgspec.structs import replace

from shim.distribution.reference import is_remote
from shim.entry.cli.clones import clone
from shim.entry.cli.copies import Copies, copy_options
from shim.entry.cli.direct import DirectCommand, direct_option
from shim.entry.cli.params import DEVICE_MAP, DURATION, PATH, PLACE, REF, RENAME, TASK
from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.transfer import pulled
from shim.entry.cli.transfer_options import read_options
from shim.host.sizes import size
from shim.host.text import printable
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Connections,
    CudaMode,
    Direct,
    EngineName,
    ExecProcesses,
    MemberOptions,
    RestoreOptions,
    RestoreResult,
    Stage,
    Stdio,
    Verify,
)


@click.command("checkpoint")
@click.option("--exit", "exit_", is_flag=True, help="stop the task once its image is complete")
@click.option(
    "--image-path",
    type=PATH,
    default="",
    help="path of the new image [default: below paths.images]",
)
@click.option(
    "--engine",
    type=click.Choice([name.value for name in EngineName]),
    help="what runs the CUDA steps: runsc (builtin) or cryo (phased) [default: defaults.engine]",
)
@click.option(
    "--cuda",
    type=click.Choice([mode.value for mode in CudaMode]),
    help="auto-detect, require or ignore GPU state [default: defaults.cuda]",
)
@click.option(
    "--connections",
    type=click.Choice([policy.value for policy in Connections]),
    help="whether to fail if a restored copy would lose connections "
    "[default: defaults.connections]",
)
@click.option(
    "--exec-processes",
    type=click.Choice([policy.value for policy in ExecProcesses]),
    help="whether to fail or to drop GPU processes started by an exec, which cannot be restored "
    "[default: defaults.exec_processes]",
)
@click.option(
    "--stage",
    type=click.Choice([stage.value for stage in Stage]),
    help="save into memory, and copy the image while the task runs again; or save to the disk "
    "[default: defaults.stage]",
)
@click.option("--no-seal", is_flag=True, help="do not record digests of the files")
@click.option("--compress", is_flag=True, help="compress the image; slower")
@click.option("--direct", is_flag=True, help="write with O_DIRECT")
@click.option("--timeout", "timeout_s", type=DURATION, default=0.0, help="overall timeout")
@click.argument("task", type=TASK)
@pass_settings
def checkpoint(
    settings: Settings,
    task: str,
    image_path: str,
    engine: str | None,
    cuda: str | None,
    connections: str | None,
    exec_processes: str | None,
    stage: str | None,
    timeout_s: float,
    *,
    exit_: bool,
    no_seal: bool,
    compress: bool,
    direct: bool,
) -> None:
    """Checkpoint a task, which keeps running unless --exit is given. Prints the image path.

    On failure, or Ctrl-C, the checkpoint is rolled back and the task runs as before.
    """
    options = CheckpointOptions(
        image_path=image_path,
        exit=exit_,
        engine=EngineName(engine) if engine else None,
        cuda=CudaMode(cuda) if cuda else None,
        connections=Connections(connections) if connections else None,
        exec_processes=ExecProcesses(exec_processes) if exec_processes else None,
        stage=Stage(stage) if stage else None,
        timeout_s=timeout_s,
        seal=not no_seal,
        compress=compress,
        direct=direct,
    )
    with settings.client() as client, Renderer() as renderer:
        result = client.checkpoint(task, options, renderer.report)
    settings.show(result, result.image_path)
    _summary(result, f"checkpoint of {task}: {size(result.size_bytes)}")
    frozen = f"frozen for {result.frozen_s:.2f} s, saved to {result.stage}: {result.stage_reason}"
    print(printable(frozen), file=sys.stderr)
    renderer.print_others(result.warnings)


@click.command("restore", cls=DirectCommand)
@click.option(
    "--image",
    "--image-path",
    "image_path",
    type=REF,
    required=True,
    help="name or path of the image, or a reference to one elsewhere, which is pulled first",
)
@click.option(
    "--bundle", type=PATH, default="", help="OCI bundle [default: the config.json in the image]"
)
@click.option(
    "--verify",
    type=click.Choice([mode.value for mode in Verify]),
    default="auto",
    help="what to verify before the restore",
)
@click.option("--background", is_flag=True, help="return before all memory is loaded")
@direct_option
@click.option("--device-map", type=DEVICE_MAP, help="map of GPU UUIDs")
@click.option(
    "--member",
    "members",
    type=RENAME,
    multiple=True,
    help="new id of a container of a pod [default: the id in the image]",
)
@click.option(
    "--member-bundle",
    "member_bundles",
    type=PLACE,
    multiple=True,
    help="OCI bundle of a container of a pod, by its id in the image",
)
@click.option(
    "--image-hooks", is_flag=True, help="without --bundle: run the hooks in the image's config.json"
)
@click.option(
    "--untrusted-folder", is_flag=True, help="accept an image that users other than root can modify"
)
@click.option(
    "--trust-spec",
    is_flag=True,
    help="let the config.json in an image from elsewhere use the host as a bundle may",
)
@click.option("--digest", default="", help="required digest of the manifest")
@click.option("--stdin", type=PATH, default="", help="path of a file or FIFO")
@click.option("--stdout", type=PATH, default="", help="path of a file or FIFO")
@click.option("--stderr", type=PATH, default="", help="path of a file or FIFO")
@click.option("--timeout", "timeout_s", type=DURATION, default=0.0, help="overall timeout")
@copy_options
@read_options
@click.argument("task", required=False)
@pass_settings
def restore(
    settings: Settings,
    task: str | None,
    image_path: str,
    bundle: str,
    verify: str,
    direct: str,
    device_map: dict[str, str] | None,
    members: tuple[tuple[str, str], ...],
    member_bundles: tuple[tuple[str, str], ...],
    stdin: str,
    stdout: str,
    stderr: str,
    timeout_s: float,
    digest: str,
    copies: Copies,
    transfer: Mapping[str, Any],
    *,
    background: bool,
    image_hooks: bool,
    untrusted_folder: bool,
    trust_spec: bool,
) -> None:
    """Restore an image as the new task TASK.

    The image of a pod restores all of its containers: the sandbox as TASK, the others with their
    original ids or those given by --member. With --bundle each container needs a bundle; without
    it every config.json is taken from the image, without its hooks.

    With --count it is restored as several tasks, TASK-1, TASK-2 and so on, or as --name-template
    says. {i} and {id} in paths, names and ids stand for the number and the id of each.

    An image that was pulled or imported is refused without --bundle if its config.json uses
    anything of the host; the error lists it. --trust-spec accepts all of it.

    On failure, or Ctrl-C, nothing is left behind, and the image is unchanged.
    """
    options = RestoreOptions(
        image_path=image_path,
        bundle=bundle,
        stdio=Stdio(stdin=stdin, stdout=stdout, stderr=stderr),
        verify=Verify(verify),
        background=background,
        direct=Direct(direct),
        timeout_s=timeout_s,
        device_map=device_map or {},
        members=_members(dict(members), dict(member_bundles)),
        image_hooks=image_hooks,
        untrusted_folder=untrusted_folder,
        trust_spec=trust_spec,
        digest=digest,
    )
    wanted = copies.each(task, options)
    if is_remote(image_path):
        path = pulled(settings, image_path, transfer).image_path
        wanted = {key: replace(one, image_path=path) for key, one in wanted.items()}
    if copies.count is not None:
        clone(settings, wanted, copies.at_once)
        return
    [(name, chosen)] = wanted.items()
    with settings.client() as client, Renderer() as renderer:
        result = client.restore(name, chosen, renderer.report)
    settings.show(result, "")
    _summary(result, f"restore of {name}: pid {result.pid}")
    if result.direct_reason:
        print(printable(_reading(result)), file=sys.stderr)
    renderer.print_others(result.warnings)


def _members(ids: dict[str, str], bundles: dict[str, str]) -> tuple[MemberOptions, ...]:
    return tuple(
        MemberOptions(saved=saved, id=ids.get(saved, ""), bundle=bundles.get(saved, ""))
        for saved in dict.fromkeys([*ids, *bundles])
    )


def _reading(result: RestoreResult) -> str:
    how = "past" if result.direct else "by way of"
    return f"its pages were read {how} the page cache: {result.direct_reason}"


def _summary(result: CheckpointResult | RestoreResult, text: str) -> None:
    """Print a summary on stderr; stdout is for programs."""
    took_s = sum(result.timings_s.values())
    count = len(result.processes)
    noun = "process" if count == 1 else "processes"
    gpu = f", {count} GPU {noun} by engine {result.engine}" if count else ""
    pod = f", with {', '.join(result.members)}" if result.members else ""
    print(printable(f"{text}{pod}{gpu}, {took_s:.2f} s"), file=sys.stderr)


COMMANDS = (checkpoint, restore)
