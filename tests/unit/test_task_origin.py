"""What a container is made from: its bundle, or the image that its annotations name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Pods, Trust
from shim.errors import CryoError, HostMismatch, ImageCorrupt, NotFound, PermissionDenied
from shim.image import keys, labels, signature, tagging
from shim.image import manifest as manifests
from shim.image import name as names
from shim.image.manifest import Build
from shim.image.named import Fingerprint, ImageRef, NamedImages
from shim.model import RestorePolicy, utcnow
from shim.oci import document, pod
from shim.task.container import Container
from shim.task.plan import plan
from shim.transaction.builds import runsc_build
from shim.transaction.hostfacts import read_host
from tests.unit.fakes_tasks import SPEC, Owner, owning
from tests.unit.image_helpers import sealed

NAME = "llama"
CRI = {pod.SANDBOX_NAMESPACE: "team-a", pod.CONTAINER_TYPE: "sandbox", pod.SANDBOX_ID: "a"}


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


def annotate(owner: Owner, annotations: dict[str, str], **more: Any) -> None:
    """Write the bundle of the next task."""
    data = SPEC | {"annotations": annotations} | more
    (owner.bundle / "config.json").write_text(json.dumps(data))


async def created(owner: Owner) -> Container:
    """Create task `a`."""
    await owner.tasks.create(owner.request())
    return owner.tasks._task(owner.ref())


async def save(owner: Owner, **more: Any) -> Path:
    """Put an image where a start of the bundle finds it; return its folder."""
    planned = plan(owner.config, owner.request(), owner.tasks._owner.context().layout.task)
    mine = await owner.tasks._origins.fingerprint(owner.request(), planned)
    return await put(owner, mine, **more)


async def put(owner: Owner, mine: Fingerprint, **more: Any) -> Path:
    """Put an image of this fingerprint under the name."""
    found = document.read_annotations(owner.bundle)
    named = {"kubernetes_namespace": found.get(pod.SANDBOX_NAMESPACE)}
    able = await owner.tasks._owner.capabilities()
    spec = plan(owner.config, owner.request(), owner.tasks._owner.context().layout.task).spec
    host = read_host()
    images = NamedImages(
        Path(owner.config.paths.images), ImageRef(namespace="ns", name=NAME, **named)
    )
    path = images.new_image(mine, utcnow())
    fields = {
        "spec": spec.data,
        "bundle": str(owner.bundle),
        "processes": (),
        "arch": host.arch,
        "cpu_features": host.cpu_features,
        "runsc": await runsc_build(able),
    }
    sealed(path, **(fields | more))
    return path


async def test_an_image_by_its_name(owner: Owner) -> None:
    """A client of containerd may give a name instead of a path; the task knows the path."""
    images = Path(owner.config.paths.images)
    image = await put(owner, Fingerprint(parts={"runsc": "1"}))
    tagging.tag(images, image, names.parse("llama:warm", "ns"), utcnow())

    origin = await owner.tasks._origins.decide(owner.request(checkpoint="llama:warm"))

    assert origin.request.checkpoint == str(image)
    assert labels.read(image).last_used_at is not None
    with pytest.raises(NotFound, match="no image is named"):
        await owner.tasks._origins.decide(owner.request(checkpoint="llama:cold"))


async def test_without_annotations_nothing_is_looked_up(owner: Owner) -> None:
    """A container that names no image is made from its bundle."""
    task = await created(owner)

    assert (task.record.named, task.record.image_path) == (None, "")
    assert owner.topics == ["create"]


@pytest.mark.parametrize("key", ("io.cryo.restore", "io.cryo.warm"))
async def test_an_image_that_fits_is_pinned(owner: Owner, key: str) -> None:
    """The record keeps its path and its digest, and no sandbox is made before Start."""
    annotate(owner, {key: NAME})
    path = await save(owner)

    record = (await created(owner)).record

    assert (record.image_path, record.pid) == (str(path), 0)
    assert record.image_digest == manifests.decode((path / manifests.NAME).read_bytes(), "").digest
    assert record.named is not None
    assert record.named.reason == ""
    assert record.named.warm == (key == "io.cryo.warm")
    assert owner.topics == ["create"]


async def test_there_is_no_image_yet(owner: Owner) -> None:
    """`restore` fails and names the command; `if-possible` warns; the first warm start is cold."""
    annotate(owner, {"io.cryo.restore": NAME})
    with pytest.raises(NotFound, match="no image named llama") as caught:
        await created(owner)
    assert "cryo warm save llama" in caught.value.remedy

    annotate(owner, {"io.cryo.restore": NAME, "io.cryo.restore-policy": "if-possible"})
    record = (await created(owner)).record
    assert record.named is not None
    assert (record.pid > 0, record.named.policy) == (True, RestorePolicy.IF_POSSIBLE)
    assert record.notices == (f"started cold instead of from the image llama: {caught.value}",)
    assert owner.topics == [*["/cryo/warm-miss"] * 2, "create", "/cryo/warning"]
    await owner.tasks.delete(owner.ref())

    annotate(owner, {"io.cryo.warm": NAME})
    record = (await created(owner)).record
    assert record.named is not None
    assert record.named.warm
    assert "no image named llama" in record.named.reason
    assert record.notices == ()


async def test_only_images_that_do_not_fit(owner: Owner) -> None:
    """The refusal says what differs from the newest, with both values."""
    annotate(owner, {"io.cryo.restore": NAME}, process={"args": ["/bin/old"], "cwd": "/"})
    await save(owner)
    annotate(owner, {"io.cryo.restore": NAME})

    with pytest.raises(HostMismatch, match=r"differs: spec process.args \(lacks old, adds sh\)"):
        await created(owner)


async def test_an_image_that_runsc_would_refuse(owner: Owner) -> None:
    """The definite comparisons are made at Create as well: a cold start is still possible then."""
    annotate(owner, {"io.cryo.warm": NAME})
    await save(owner, runsc=Build(version="release-20200101.0"))

    task = await created(owner)

    assert task.record.image_path == ""
    assert "runsc: the image needs release-20200101.0" in task.warnings.text


async def test_a_damaged_image(owner: Owner) -> None:
    """It is refused by `restore`, and no obstacle for a warm start, which says why it is cold."""
    annotate(owner, {"io.cryo.restore": NAME})
    path = await save(owner)
    (path / manifests.NAME).write_bytes(b"{}")
    with pytest.raises(ImageCorrupt):
        await created(owner)

    annotate(owner, {"io.cryo.warm": NAME})
    assert "started cold instead of from the image llama: " in (await created(owner)).warnings.text


async def test_pods_need_a_setting(owner: Owner) -> None:
    """Anyone who may create pods can write annotations; the refusal names the setting."""
    annotate(owner, CRI | {"io.cryo.restore": NAME})
    await save(owner)

    with pytest.raises(PermissionDenied, match="not allowed for pods") as caught:
        await created(owner)
    assert "restore = true under [pods]" in caught.value.remedy

    owner.config = msgspec.structs.replace(owner.config, pods=Pods(restore=True))
    await owner.again()
    assert (await created(owner)).record.image_path


async def test_an_image_of_another_namespace_is_never_found(owner: Owner) -> None:
    """A pod's name is looked up in the pod's own Kubernetes namespace alone."""
    owner.config = msgspec.structs.replace(owner.config, pods=Pods(restore=True))
    await owner.again()
    annotate(owner, CRI | {"io.cryo.restore": NAME})
    await save(owner)

    for others in ({pod.SANDBOX_NAMESPACE: "team-b"}, {pod.SANDBOX_NAMESPACE: "../ns/team-a"}):
        annotate(owner, CRI | others | {"io.cryo.restore": NAME})
        with pytest.raises(CryoError, match=r"no image named|not valid"):
            await created(owner)
    annotate(owner, {"io.cryo.restore": NAME})
    with pytest.raises(NotFound):
        await created(owner)


async def test_an_image_that_is_not_accepted(owner: Owner, tmp_path: Path) -> None:
    """Where restores require a signature a warm start is cold without one, and says so."""
    public = keys.generate(tmp_path / "key")
    trust = Trust(keys=(public.name,), restore="signed")
    owner.config = msgspec.structs.replace(owner.config, trust=trust)
    await owner.again()
    annotate(owner, {"io.cryo.warm": NAME})
    path = await save(owner)

    record = (await created(owner)).record
    assert (record.image_path, record.pid > 0) == ("", True)
    assert any("it is not signed" in notice for notice in record.notices)
    await owner.tasks.delete(owner.ref())
    private = keys.read_private(tmp_path / "key")
    signed = private.sign(signature.to_sign(signature.image_statement(path)))
    signature.add(path, private.public, signed)
    assert (await created(owner)).record.image_path == str(path)


async def test_the_decision_survives_the_owner(owner: Owner) -> None:
    """The next owner has it from the record, and looks nothing up."""
    annotate(owner, {"io.cryo.warm": NAME})
    await save(owner)
    before = (await created(owner)).record.named

    await owner.again()

    assert owner.tasks._task(owner.ref()).record.named == before
