"""What a hostile image can make of a restore: nothing that its operator did not ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import pytest

from shim.errors import ImageCorrupt, InvalidArgument, InvalidBundle, PermissionDenied
from shim.image import labels
from shim.image.labels import Labels
from shim.image.manifest import NAME
from shim.model import MemberOptions, Progress, RestoreOptions
from shim.oci import canonical
from shim.state import TaskState
from tests.real.helpers_rig import Rig
from tests.real.test_pods import Pod

pytestmark = pytest.mark.timeout(120)


def forge(image: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as who can write the image can: with a digest that is right for it."""
    plain = json.loads((image / NAME).read_bytes())
    change(plain)
    del plain["digest"]
    plain["digest"] = blake3.blake3(canonical.encode(plain)).hexdigest()
    (image / NAME).write_bytes(canonical.encode_pretty(plain))


def hook(mark: Path) -> dict[str, Any]:
    """Make a hook that leaves a mark on the host."""
    return {"createRuntime": [{"path": "/bin/touch", "args": ["touch", str(mark)]}]}


@pytest.fixture
def saved(rig: Rig, tmp_path: Path) -> Path:
    """Give the image of a plain container."""
    rig.sleeper("one")
    image = Path(rig.checkpoint("one", image_path=str(tmp_path / "image")).image_path)
    rig.end("one")
    return image


def test_a_forged_member_brings_no_spec_beside_the_operators_bundle(
    rig: Rig, saved: Path, tmp_path: Path
) -> None:
    """With --bundle a container that the image has besides is refused by name; no hook runs."""
    mark = tmp_path / "mark"

    def add(plain: dict[str, Any]) -> None:
        spec = {**plain["spec"], "hooks": hook(mark)}
        one = {"task": "evil", "name": "evil", "spec": spec, "spec_digest": ""}
        plain["members"] = [{**one, "bundle": plain["bundle"], "rootfs": plain["rootfs"]}]

    forge(saved, add)
    bundle = str(rig.bundle("one", ("/bin/sleep", "1000")))

    with pytest.raises(InvalidArgument, match="beside your bundle: evil"):
        rig.restore("two", saved, bundle=bundle)

    assert not mark.exists()
    assert rig.client.list() == []


def test_hooks_of_an_image_run_only_when_asked_for(rig: Rig, saved: Path, tmp_path: Path) -> None:
    """A restore from the image alone leaves its hooks out and says so; --image-hooks runs them."""
    mark = tmp_path / "mark"
    forge(saved, lambda plain: plain["spec"].update(hooks=hook(mark)))
    updates: list[Progress] = []

    listed = rig.client.verify(str(saved))["host_access"][0]
    result = rig.client.restore("two", RestoreOptions(image_path=str(saved)), updates.append)
    rig.end("two")

    assert listed["hooks"] == [
        {"when": "createRuntime", "path": "/bin/touch", "args": ["touch", str(mark)]}
    ]
    assert not mark.exists()
    assert any("createRuntime /bin/touch" in one.message for one in updates if one.warning)
    assert any("createRuntime /bin/touch" in text for text in result.warnings)
    rig.client.restore("three", RestoreOptions(image_path=str(saved), image_hooks=True))
    rig.end("three")
    assert mark.exists()


def test_the_operators_own_hooks_run(rig: Rig, saved: Path, tmp_path: Path) -> None:
    """Hooks in the operator's bundle run in a restore, and those of the image do not."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    forge(saved, lambda plain: plain["spec"].update(hooks=hook(theirs)))
    bundle = rig.bundle("one", ("/bin/sleep", "1000"))
    with rig.edited(bundle) as spec:
        spec["hooks"] = hook(ours)

    rig.restore("two", saved, bundle=str(bundle))
    rig.end("two")

    assert ours.exists()
    assert not theirs.exists()


def test_nothing_is_unlinked_in_a_bundle_that_an_image_names(
    rig: Rig, saved: Path, tmp_path: Path
) -> None:
    """A bundle of containerd's that an image names keeps the link to its own task."""
    victim = tmp_path / "io.containerd.runtime.v2.task" / "default" / "victim"
    victim.mkdir(parents=True)
    (victim / "cryo").symlink_to("/run/cryo/shims/x/tasks/default/victim")
    forge(saved, lambda plain: plain.update(bundle=str(victim)))

    rig.client.restore("two", RestoreOptions(image_path=str(saved)))
    rig.end("two")

    assert (victim / "cryo").readlink() == Path("/run/cryo/shims/x/tasks/default/victim")


def test_a_pod_comes_back_wholly_from_the_operators_bundles(rig: Rig, tmp_path: Path) -> None:
    """With a bundle for each container a pod is restored, and no hook of its image runs."""
    pod = Pod(rig)
    pod.begin(train=1)
    made = rig.checkpoint(pod.sandbox, image_path=str(tmp_path / "image"))
    pod.remove()
    mark = tmp_path / "mark"

    def hooked(plain: dict[str, Any]) -> None:
        for member in plain["members"]:
            member["spec"]["hooks"] = hook(mark)

    forge(Path(made.image_path), hooked)
    bundles = {name: str(rig.sim.folder / "bundles" / name) for name in pod.ids}
    members = tuple(MemberOptions(saved=name, bundle=bundles[name]) for name in pod.ids[1:])

    with pytest.raises(InvalidArgument, match="beside your bundle: count"):
        rig.restore(pod.sandbox, made.image_path, bundle=bundles[pod.sandbox], members=members[:1])
    rig.restore(pod.sandbox, made.image_path, bundle=bundles[pod.sandbox], members=members)

    assert pod.fine
    assert not mark.exists()
    pod.remove()


def test_an_image_that_somebody_else_can_change_is_refused(
    rig: Rig, saved: Path, tmp_path: Path
) -> None:
    """Its owner could swap a file between its verification and its load; by name it is taken."""
    os.chown(saved, 65534, 65534)

    with pytest.raises(PermissionDenied, match="belongs to user 65534"):
        rig.restore("two", saved)
    with pytest.raises(PermissionDenied, match="belongs to user 65534"):
        rig.client.verify(str(saved))
    with pytest.raises(PermissionDenied, match="belongs to user 65534"):
        rig.client.create("two", str(rig.bundle("one", ("/bin/sleep", "9"))), checkpoint=str(saved))
    assert rig.client.list() == []
    rig.restore("two", saved, untrusted_folder=True)
    rig.end("two")


def test_an_image_is_saved_into_no_folder_of_anothers(rig: Rig, tmp_path: Path) -> None:
    """He could read the memory while it is written; the task runs on as if nothing had been."""
    rig.sleeper("one")
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", 65534, 65534)

    with pytest.raises(PermissionDenied, match="his belongs to user 65534"):
        rig.checkpoint("one", image_path=str(tmp_path / "his" / "image"))

    assert list((tmp_path / "his").iterdir()) == []
    assert rig.client.list()[0].state is TaskState.RUNNING
    rig.end("one")


def test_another_image_than_the_one_meant_is_refused(rig: Rig, saved: Path) -> None:
    """With --digest an image that was sealed again is another one."""
    digest = rig.client.inspect(str(saved))["digest"]
    rig.restore("two", saved, digest=digest)
    rig.end("two")
    forge(saved, lambda plain: plain.update(task="other"))

    with pytest.raises(ImageCorrupt, match=f"not {digest}"):
        rig.restore("two", saved, digest=digest)
    assert rig.client.list() == []


def test_hooks_are_found_in_any_case(rig: Rig, saved: Path, tmp_path: Path) -> None:
    """To runsc `Hooks` are hooks: such a spec is refused, also without --image-hooks."""
    mark = tmp_path / "mark"
    forge(saved, lambda plain: plain["spec"].update(Hooks=hook(mark)))

    with pytest.raises(InvalidBundle, match="'Hooks', which runsc takes for 'hooks'"):
        rig.restore("two", saved)

    assert not mark.exists()
    assert rig.client.list() == []


@pytest.mark.parametrize("kind", ("io.kubernetes.cri.", "io.kubernetes.cri-o."))
def test_an_image_joins_no_sandbox_of_another_task(rig: Rig, saved: Path, kind: str) -> None:
    """Whichever annotations runsc reads it from; the other task runs on."""
    names = {"io.kubernetes.cri.": ("container-type", "sandbox-id", "container-name")}
    type_, sandbox, name = names.get(kind, ("ContainerType", "SandboxID", "ContainerName"))
    rig.sleeper("victim")
    joins = {kind + type_: "container", kind + sandbox: "victim", kind + name: "x"}
    forge(from_elsewhere(saved), lambda plain: plain["spec"].update(annotations=joins))

    with pytest.raises((InvalidArgument, PermissionDenied), match=r"the sandbox victim|cri-o"):
        rig.restore("two", saved, trust_spec=kind == "io.kubernetes.cri.")

    assert [(one.id, one.state) for one in rig.client.list()] == [("victim", TaskState.RUNNING)]
    rig.end("victim")


def from_elsewhere(saved: Path) -> Path:
    """Label an image as one that was pulled."""
    labels.write(saved, Labels(source="registry.example.com/x:1"))
    return saved


def test_an_image_from_elsewhere_uses_nothing_of_the_host(
    rig: Rig, saved: Path, tmp_path: Path
) -> None:
    """All that it names is in one error; no sandbox was made, and it was not read."""
    secret, mark = tmp_path / "secret", tmp_path / "mark"
    secret.touch()
    mount = {"destination": "/x", "type": "bind", "source": str(secret), "options": ["bind"]}

    def change(plain: dict[str, Any]) -> None:
        plain["spec"]["hooks"] = hook(mark)
        plain["spec"]["mounts"].append(mount)
        plain["spec"]["root"]["path"] = "/"

    forge(from_elsewhere(saved), change)

    with pytest.raises(PermissionDenied) as caught:
        rig.restore("two", saved, image_hooks=True)

    for text in (
        "from registry.example.com/x:1",
        "one: root filesystem /",
        "one: hook createRuntime /bin/touch",
        f"one: bind mount of {secret} at /x",
    ):
        assert text in caught.value.message
    assert not mark.exists()
    assert rig.client.list() == []


def test_an_image_from_elsewhere_is_restored_when_its_spec_is_accepted(
    rig: Rig, saved: Path
) -> None:
    """With the caller's own bundle, or by --trust-spec."""
    from_elsewhere(saved)
    bundle = str(rig.bundle("one", ("/bin/sleep", "1000")))

    rig.restore("two", saved, bundle=bundle)
    rig.end("two")
    rig.restore("three", saved, trust_spec=True)
    rig.end("three")
    with pytest.raises(PermissionDenied, match="root filesystem"):
        rig.restore("four", saved)
