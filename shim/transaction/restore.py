"""The checks of a restore, and the CUDA steps after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from shim.config import Config
from shim.cuda import driver, inventory
from shim.cuda.engine import explain
from shim.cuda.inventory import Inventory
from shim.cuda.table import label
from shim.errors import CryoError, CudaError, ImageCorrupt, InvalidArgument, Unimplemented
from shim.host.filecalls import file_call
from shim.image import trust
from shim.image.manifest import PAGES, Manifest, Member
from shim.image.trust import Action
from shim.image.verify import HeldImage
from shim.image.verify_cache import VerifyCache
from shim.model import CudaProcess, Direct, EngineName, Report, RestoreOptions, Verify
from shim.runsc import host_network, overlay
from shim.runsc.container_flags import ContainerFlags
from shim.runsc.probe import Capabilities
from shim.transaction import hostfacts, preflight
from shim.transaction.builds import runsc_build
from shim.transaction.steps import engine_for, group_for
from shim.transaction.target import CheckpointTarget
from shim.transaction.worker import in_thread


async def check_image(held: HeldImage, mode: Verify, config: Config, report: Report) -> Manifest:
    """Verify that an image is unchanged since it was sealed; `mode` is how much is read.

    Raises:
        NotFound: there is none.
        ImageCorrupt: it was changed.
        PermissionDenied: another user can change it.
    """
    cache = VerifyCache(Path(config.paths.verified))
    return await in_thread(lambda progress: held.verify(mode, cache, progress), report)


def check_to_load(
    held: HeldImage, options: RestoreOptions, config: Config
) -> Callable[[Report], Manifest]:
    """Return what verifies an image before it is loaded, as `check_image` does; it blocks.

    The pages of one that may be loaded meanwhile are left to `PagesCheck`.
    """
    cache, may_load = VerifyCache(Path(config.paths.verified)), _may_load(options, config)
    return partial(held.verify, options.verify, cache, may_load=may_load)


def verify_known(held: HeldImage, options: RestoreOptions, config: Config) -> bool:
    """Verify an image as `check_to_load` does, if no more than its manifest is read for that.

    Return whether it is verified. Blocks.

    Raises:
        CryoError: as `check_image`.
    """
    cache, may_load = VerifyCache(Path(config.paths.verified)), _may_load(options, config)
    return held.verify_known(options.verify, cache, may_load=may_load)


def _may_load(options: RestoreOptions, config: Config) -> Callable[[Manifest], bool]:
    """Return whether pages may be loaded while they are verified, if this host has read them.

    Not where someone else may have changed them, and not where runsc thaws the CUDA processes in
    its load: those may run only once the pages are verified.
    """
    mine = not options.untrusted_folder
    unsigned = not trust.requires_signature(config.trust, Action.RESTORE)

    def may_load(manifest: Manifest) -> bool:
        thaws_itself = manifest.has_cuda and manifest.engine == EngineName.BUILTIN
        return mine and unsigned and not thaws_itself

    return may_load


async def check_accepted(held: HeldImage, mode: Verify, config: Config) -> None:
    """Check that an image that was verified is signed, where [trust] requires that of a restore.

    Raises:
        PermissionDenied: no configured key has signed it.
        ImageCorrupt: its signatures are damaged, or of another image.
        InvalidArgument: its files were not read, so the signature would not cover them.
    """
    if not trust.requires_signature(config.trust, Action.RESTORE):
        return
    if mode is Verify.NONE:
        message = (
            "[trust] requires a signature, which --verify none does not compare with the files"
        )
        raise InvalidArgument(message, remedy="use --verify auto or full")
    await file_call(
        lambda: trust.check_folder(config.trust, Action.RESTORE, held.folder),
        doing=f"read the signatures of {held.image}",
    )


async def check_host(manifest: Manifest, config: Config, capabilities: Capabilities) -> None:
    """Check that this host can run the image.

    Raises:
        HostMismatch: it cannot; the message names each difference.
    """
    # Without CUDA processes nothing of the driver is compared.
    found = inventory.read(config.cuda.nvidia_proc) if manifest.has_cuda else Inventory()
    build = await runsc_build(capabilities)
    # Where the configuration sets none, these flags are as the container's creation chooses them.
    flags = _own_flags(manifest).added_to(config.runsc.flags)
    hostfacts.check_host(manifest, hostfacts.read_host(), found, build, flags)


def _own_flags(manifest: Manifest) -> ContainerFlags:
    saved = manifest.runsc_flags
    network = host_network.restored_flag(saved, lambda: manifest.specs[0])
    return ContainerFlags(overlay2=saved.get(overlay.FLAG, ""), network=network)


def check_options(manifest: Manifest, options: RestoreOptions, capabilities: Capabilities) -> None:
    """Check that this runsc and this image support the options.

    Raises:
        ImageCorrupt: the image has another digest than the requested one.
        ResourceExhausted: the host has too little memory for it.
        Unimplemented: one is not supported.
        InvalidArgument: a device map without GPU state.
    """
    preflight.check_room(loaded_bytes(manifest))
    if options.digest and options.digest != manifest.digest:
        message = f"image {options.image_path} has digest {manifest.digest}, not {options.digest}"
        raise ImageCorrupt(message, remedy="it was replaced: use the image that has your digest")
    if options.background and not capabilities.background:
        message = "this runsc cannot restore in the background"
        raise Unimplemented(message, remedy="leave out --background, or use runsc from 20240930 on")
    if options.direct is Direct.ON and not capabilities.direct:
        message = "this runsc has no direct I/O for images"
        raise Unimplemented(message, remedy="leave out --direct")
    if not options.device_map:
        return
    if manifest.engine == EngineName.BUILTIN:
        message = "this image was made by runsc's own engine, which takes no device map"
        raise Unimplemented(message, remedy="checkpoint with --engine phased")
    if not manifest.has_cuda:
        message = "the image holds no GPU state to map"
        raise InvalidArgument(message, remedy="leave out --device-map")


def option_warnings(options: RestoreOptions, capabilities: Capabilities) -> tuple[str, ...]:
    """Return a warning for each option without which this runsc restores the task."""
    if options.hostname and not capabilities.restores_hostname:
        return (
            f"the task may keep its saved hostname: this runsc does not set {options.hostname}",
        )
    return ()


def loaded_bytes(manifest: Manifest) -> int:
    """Return how much memory the image needs: that of its pages, or what was recorded."""
    pages = sum(file.size_bytes for file in manifest.files if file.name == PAGES)
    return manifest.memory_bytes if manifest.options.compress else pages


async def thaw_restored(
    target: CheckpointTarget,
    manifest: Manifest,
    report: Report,
    *,
    device_map: Mapping[str, str],
    background: bool,
) -> None:
    """Bring every CUDA process that the image recorded to `running`.

    Raises:
        ResourceExhausted: too little GPU memory.
        CudaError, DeadlineExceeded: a process could not be thawed.
    """
    runsc, timeout_s = target.runsc, target.config.timeouts.thaw
    builtin = manifest.engine == EngineName.BUILTIN
    # Without --background runsc has loaded all pages; only its own CUDA steps remain.
    loaded = builtin and runsc.capabilities.wait_restore and not background
    try:
        if loaded:
            await runsc.wait_restore(target.ref.id, timeout_s)
        if not manifest.has_cuda:
            return
        facts = driver.capabilities(manifest.driver)
        pairs = [(one, _expected(saved)) for one, saved in _pairs(target, manifest)]
        seeds = [(one, found) for one, found in pairs if found]
        group = group_for(seeds, facts, report, device_map)
        expected = group.known
        engine = engine_for(target, EngineName(manifest.engine), group)
        await engine.thaw_restored(loaded=loaded)
        _check_all_there(expected, group.known)
    except CryoError as error:
        known = [
            msgspec.structs.replace(process, container=one.container)
            for one, saved in _pairs(target, manifest)
            for process in saved.processes
        ]
        if builtin:
            raise explain(error, hung=False, timeout_s=timeout_s, known=known) from error
        raise


def _expected(saved: Member) -> tuple[CudaProcess, ...]:
    """List the CUDA processes of a container that a restore has to bring back."""
    return tuple(process for process in saved.processes if not process.dropped)


def _check_all_there(expected: list[CudaProcess], found: list[CudaProcess]) -> None:
    """Check that no process is missing.

    Raises:
        CudaError: one is.
    """
    missing = [process for process in expected if process not in found]
    if not missing:
        return
    names = ", ".join(label(process) for process in missing)
    noun = "process" if len(missing) == 1 else "processes"
    message = f"the image has the GPU {noun} {names}, which the restored task lacks"
    raise CudaError(
        message,
        pid=missing[0].pid,
        remedy="if an exec had started it, start it from the container's own "
        "command; otherwise check the task's output: it may have exited at once",
    )


def _pairs(target: CheckpointTarget, manifest: Manifest) -> list[tuple[CheckpointTarget, Member]]:
    """Pair each restored container with what was saved of it; its id may have changed."""
    members = {one.name: one for one in target.members}
    pairs = [(members[saved.name], saved) for saved in manifest.members]
    return [(target, manifest.root), *pairs]
