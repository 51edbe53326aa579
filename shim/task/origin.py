"""What a container is made from: its bundle, or an image that its annotations name.

This is decided at Create, once: the record keeps the image's path and digest, so that the restore
loads the image that was chosen, whatever has the name by then.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import CryoError, FailedPrecondition, HostMismatch, NotFound, PermissionDenied
from shim.host.filecalls import file_call
from shim.image.images import Images
from shim.image.name import is_path
from shim.image.named import Fingerprint, NamedImages
from shim.image.named_use import NameOutcome
from shim.model import CreateRequest, RestorePolicy, TaskRef, Value
from shim.oci import document, pod
from shim.oci.annotation_names import RESTORE, WARM
from shim.oci.annotations import read_annotations
from shim.oci.document import Spec
from shim.runsc.container_flags import ContainerFlags
from shim.task import readiness
from shim.task.cold_pods import ColdPods
from shim.task.name_counters import NameCounters
from shim.task.owner import Owner
from shim.task.plan import ImageSource, Plan, plan
from shim.task.record import Absent, NamedOrigin
from shim.transaction import restore
from shim.transaction.fingerprint import describe, fingerprint
from shim.transaction.use_note import note_use

_REMEDY_OF_PODS = "set restore = true under [pods] in config.toml on this node"


class Origin(Value):
    """A decision: the request, with the image in `checkpoint` if there is one.

    `named` is what the annotations request, None without any. `plan` is the plan for it, if that
    was made already, and `fingerprint` that of the container if it names an image. `warning` is why
    an image that was named is not used. `absent` is set for a container of a pod that its pod's
    image lacks.
    """

    request: CreateRequest
    source: ImageSource | None = None
    named: NamedOrigin | None = None
    plan: Plan | None = None
    fingerprint: Fingerprint | None = None
    warning: str | None = None
    absent: Absent | None = None


class Origins:
    """Decides what the containers of one owner are made from."""

    def __init__(
        self, config: Config, images: Images, owner: Owner, counters: NameCounters
    ) -> None:
        self._config = config
        self._images = images
        self._owner = owner
        self._counters = counters

    async def decide(self, request: CreateRequest) -> Origin:
        """Choose the image of the request, or of its annotations, or none.

        Raises:
            CryoError: the image cannot be used, and the policy is `always`.
        """
        if request.checkpoint:
            asked, namespace = request.checkpoint, request.ref.namespace
            image, manifest = await self._images.to_restore(asked, namespace)
            await note_use(image, self._config)
            if not is_path(request.checkpoint):  # from here on the task knows the path
                request = msgspec.structs.replace(request, checkpoint=str(image))
            return Origin(request=request, source=ImageSource(manifest=manifest))
        if not await asyncio.to_thread(_is_named, request):
            return Origin(request=request)
        planned = await asyncio.to_thread(plan, self._config, request, self._task_folder)
        if planned.sandbox_id:  # a pod's container: its sandbox decides
            return Origin(request=request, plan=planned)
        return await self._by_name(request, planned)

    def _task_folder(self, ref: TaskRef) -> Path:
        return self._owner.context().layout.task(ref)

    async def _by_name(self, request: CreateRequest, planned: Plan) -> Origin:
        wanted = read_annotations(planned.spec)
        if wanted.warm_when is not None:
            readiness.parse(wanted.warm_when)  # a mistake is reported now, not when it is used
        choice = _Choice(
            request=request,
            plan=planned,
            named=NamedOrigin(
                name=wanted.image_name or "",
                kubernetes_namespace=pod.kubernetes_namespace(planned.spec),
                policy=wanted.policy,
                warm=wanted.warm is not None,
            ),
        )
        images = choice.images_of(self._config)
        try:
            _check_allowed(planned.spec, self._config)
            choice.fingerprint = mine = await self.fingerprint(request, planned)
            choice.named = msgspec.structs.replace(choice.named, fingerprint=mine.key)
            choice.image = await file_call(
                lambda: _find(images, mine), doing=f"look for the image {images.ref}"
            )
            await self._check_not_failed(choice)
            return await self._from_image(choice, choice.image)
        except CryoError as error:
            outcome = NameOutcome.MISS if isinstance(error, NotFound) else NameOutcome.REFUSAL
            self._counters.count(
                images.ref, outcome, request.ref, str(error), make=choice.named.warm
            )
            if choice.named.policy is RestorePolicy.ALWAYS:
                raise
            return choice.cold(error)

    async def _from_image(self, choice: _Choice, image: Path) -> Origin:
        """Decide for an image, unless it does not fit after all.

        Raises:
            CryoError: it cannot be used.
        """
        path, manifest = await self._images.to_restore(str(image))
        await restore.check_host(manifest, self._config, await self._owner.capabilities())
        await note_use(path, self._config)
        request = msgspec.structs.replace(choice.request, checkpoint=str(path))
        source = ImageSource(manifest=manifest)
        ready = await asyncio.to_thread(plan, self._config, request, self._task_folder, source)
        return Origin(
            request=request,
            source=source,
            named=choice.named,
            plan=ready,
            fingerprint=choice.fingerprint,
        )

    async def _check_not_failed(self, choice: _Choice) -> None:
        """Check that the pod has not failed to be restored just before.

        The image of the choice is then the one that did not fit, which a warm start replaces.

        Raises:
            FailedPrecondition: it has, and its policy allows a cold start.
        """
        if choice.named.policy is RestorePolicy.ALWAYS or not choice.named.in_pod:
            return
        uid = choice.plan.spec.annotations.get(pod.SANDBOX_UID, "")
        notes = ColdPods(self._owner.context().layout.cold_pods)
        failed = await file_call(lambda: notes.find(uid), doing="look for earlier failures")
        if failed is not None:
            choice.image = Path(failed.image) if failed.image else None
            message = f"the last sandbox of this pod was not restored: {failed.reason}"
            raise FailedPrecondition(message, remedy="create the pod again to try another restore")

    async def fingerprint(self, request: CreateRequest, planned: Plan) -> Fingerprint:
        """Return the fingerprint of a container that is to be created."""
        able = await self._owner.capabilities()
        return await asyncio.to_thread(
            fingerprint,
            planned.spec,
            request.rootfs,
            self._config,
            able,
            gpu=planned.gpu,
            own_flags=ContainerFlags(overlay2=planned.overlay2, network=planned.network),
        )


@dataclass
class _Choice:
    """What is known while an image is chosen: the fingerprint, and then the image."""

    request: CreateRequest
    plan: Plan
    named: NamedOrigin
    fingerprint: Fingerprint | None = None
    image: Path | None = None

    def images_of(self, config: Config) -> NamedImages:
        """Return the images of the name.

        Raises:
            InvalidArgument: one of the namespaces is not valid.
        """
        ref = self.named.ref(self.request.ref.namespace)
        return NamedImages(Path(config.paths.images), ref)

    def cold(self, error: CryoError) -> Origin:
        """Decide for a cold start; the first one of a warm start is no reason for a warning.

        It is saved later if its fingerprint is known.
        """
        expected = self.named.warm and isinstance(error, NotFound)
        named = msgspec.structs.replace(
            self.named,
            reason=str(error),
            failed_image=str(self.image or ""),
            settled=self.fingerprint is None,
        )
        return Origin(
            request=self.request,
            named=named,
            plan=self.plan,
            fingerprint=self.fingerprint,
            warning=None if expected else cold_because(named.name, error),
        )


def cold_because(name: str, error: CryoError) -> str:
    """Return the warning of a container that is started cold although it names an image."""
    return f"started cold instead of from the image {name}: {error}"


def _is_named(request: CreateRequest) -> bool:
    found = document.read_annotations(Path(request.bundle)) | request.annotations
    return RESTORE in found or WARM in found


def _check_allowed(spec: Spec, config: Config) -> None:
    """Check that pods of this node may be restored.

    Raises:
        PermissionDenied: they may not.
    """
    if config.pods.restore or not (pod.is_sandbox(spec) or pod.kubernetes_namespace(spec)):
        return
    message = f"{RESTORE} and {WARM} are not allowed for pods on this node"
    raise PermissionDenied(message, remedy=_REMEDY_OF_PODS)


def _find(images: NamedImages, mine: Fingerprint) -> Path:
    """Return the image of a name that fits a container.

    Raises:
        NotFound: nothing has that name here.
        HostMismatch: only images that do not fit have it; the message says in what they differ.
    """
    found = images.find(mine.key)
    if found is not None:
        return found
    keys = images.fingerprints()
    if not keys:
        message = f"there is no image named {images.ref} in {images.folder.parent}"
        raise NotFound(message, remedy=f"save one: cryo warm save {images.ref} TASK")
    why = describe(images.parts(keys[0]), mine)
    message = f"no image named {images.ref} fits this container; the newest one differs: {why}"
    remedy = "save an image of this container under the name, or remove the difference"
    raise HostMismatch(message, remedy=remedy)
