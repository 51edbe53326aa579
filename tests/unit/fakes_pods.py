"""An owner with the image of a pod, and the bundles of a pod that is restored from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Any

from shim.errors import NotFound
from shim.image.manifest import Build, Manifest, Member
from shim.image.named import ImageRef, NamedImages
from shim.model import CreateRequest, utcnow
from shim.oci import canonical, pod
from shim.runsc.probe import Capabilities
from shim.task.plan import plan
from shim.transaction import hostfacts
from shim.transaction.builds import runsc_build
from tests.unit.fakes_tasks import SPEC, Owner
from tests.unit.image_helpers import sealed

_CRI = "io.kubernetes.cri."
# Deletes the container that is named, unless that is the one that cannot be deleted.
_DELETE = """\
for word in "$@"; do :; done
case "$word" in {stuck}+) exit 1 ;; esac
rm -f "${{1#--root=}}/${{word}}_"*.state
exit 0"""


class Pod:
    """A pod of `pod` and its members, and an image of it."""

    def __init__(self, owner: Owner, *names: str) -> None:
        self.owner = owner
        self.names = names
        self.image = Path(owner.config.paths.images) / "saved"
        self.annotations: dict[str, str] = {}
        owner.supervisor.joins = {f"{name}+": "pod+" for name in names}
        self.stick()

    def stick(self, name: str = "-") -> None:
        """Let runsc fail to delete this container, or none."""
        self.owner.script.on("delete", _DELETE.format(stuck=name))

    def half_restore(self, name: str) -> None:
        """Let `runsc restore` fail with the container half made."""
        root = next(Path(self.owner.config.paths.state).rglob("pod+.pid")).parent
        (root / f"{name}+_sandbox:pod+.state").touch()
        self.owner.supervisor.fails["restore"] = ["no such file or directory"]

    async def name(self, policy: str, **more: Any) -> None:
        """Let the pod name an image of it, which is there."""
        self.annotations |= {
            pod.SANDBOX_NAMESPACE: "team-a",
            pod.SANDBOX_UID: "uid-1",
            "io.cryo.restore": "saved",
            "io.cryo.restore-policy": policy,
        }
        request, config = self.request("pod"), self.owner.config
        planned = plan(config, request, self.owner.runtime_env.layout.task)
        mine = await self.owner.tasks._origins.fingerprint(request, planned)
        ref = ImageRef(namespace="ns", name="saved", kubernetes_namespace="team-a")
        self.image = NamedImages(Path(config.paths.images), ref).new_image(mine, utcnow())
        await self.save(**more)

    async def save(self, **more: Any) -> Manifest:
        """Write the image."""
        able: Capabilities = await self.owner.tasks._owner.capabilities()
        host = hostfacts.read_host()
        own = self.spec("pod")
        return sealed(
            self.image,
            runsc=await runsc_build(able),
            arch=host.arch,
            cpu_features=host.cpu_features,
            driver="",
            processes=(),
            engine="",
            tool=Build(),
            spec=own,
            spec_digest=canonical.digest(canonical.encode(own)),
            members=tuple(self._member(name) for name in self.names),
            **more,
        )

    def _member(self, name: str) -> Member:
        spec = self.spec(name)
        digest = canonical.digest(canonical.encode(spec))
        return Member(task=f"old-{name}", name=name, spec=spec, spec_digest=digest)

    def spec(self, name: str, **annotations: str) -> dict[str, Any]:
        """Return the spec of a container as the CRI plugin writes it."""
        kind = "sandbox" if name == "pod" else "container"
        cri = {f"{_CRI}container-type": kind, f"{_CRI}sandbox-id": "pod"}
        if name != "pod":
            cri[f"{_CRI}container-name"] = name
        return {**SPEC, "annotations": {**cri, **self.annotations, **annotations}}

    def request(self, name: str, **more: Any) -> CreateRequest:
        """Return the Create of a container, with a bundle of its own."""
        return self.request_with(name, self.spec(name), **more)

    def request_with(self, name: str, spec: Mapping[str, Any], **more: Any) -> CreateRequest:
        """Return the Create of a container with this spec."""
        bundle = self.owner.folder / f"bundle-{name}"
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(spec))
        return CreateRequest(ref=self.owner.ref(name), bundle=str(bundle), **more)

    async def create(self, *names: str) -> None:
        """Create containers that are restored from the image."""
        for name in names:
            await self.owner.tasks.create(self.request(name, checkpoint=str(self.image)))

    async def run(self, *names: str) -> None:
        """Create and start containers, one after the other, as the kubelet does."""
        for name in names:
            await self.owner.tasks.create(self.request(name))
            await self.start(name)

    @property
    def states(self) -> dict[str, str]:
        """Return the states of all containers."""
        return {task.ref.id: task.state.value for task in self.owner.tasks._map}

    async def remove(self, *names: str) -> None:
        """Kill and delete containers that may have exited."""
        tasks, ref = self.owner.tasks, self.owner.ref
        for name in names:
            with contextlib.suppress(NotFound):  # it has exited
                await tasks.kill(ref(name), SIGKILL)
            await asyncio.wait_for(tasks.wait(ref(name)), 60)
            await tasks.delete(ref(name))

    async def start(self, *names: str) -> None:
        """Start containers."""
        for name in names:
            await self.owner.tasks.start(self.owner.ref(name))
