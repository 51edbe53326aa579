"""Which container of an image a bundle is for, and what its spec becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Config, Cuda, Paths, Runsc
from shim.errors import InvalidArgument
from shim.image.manifest import Manifest, Member
from shim.model import CreateRequest, TaskRef
from shim.oci import pod
from shim.task.plan import ImageSource, Joining, Plan, plan
from tests.unit.image_helpers import manifest

_CRI = "io.kubernetes.cri"


def spec(folder: Path, kind: str = "", name: str = "", arg: str = "x") -> dict[str, Any]:
    """Make a spec of a container of sandbox `old`, whose root filesystem is there."""
    (folder / "rootfs").mkdir(exist_ok=True)
    annotations = {f"{_CRI}.container-type": kind, f"{_CRI}.sandbox-id": "old"} if kind else {}
    return {
        "ociVersion": "1.1.0",
        "process": {"args": [arg], "cwd": "/"},
        "root": {"path": str(folder / "rootfs")},
        "annotations": annotations | ({f"{_CRI}.container-name": name} if name else {}),
    }


@pytest.fixture
def image(tmp_path: Path) -> Manifest:
    """Give the manifest of a sandbox and two containers."""
    members = tuple(
        Member(
            task=f"{name}-id",
            name=name,
            spec=spec(tmp_path, "container", name, arg=name),
            spec_digest="",
            bundle=str(tmp_path),
        )
        for name in ("one", "two")
    )
    own = spec(tmp_path, "sandbox", arg="pause")
    return manifest(spec=own, bundle=str(tmp_path), members=members)


def folder_of(ref: TaskRef) -> Path:
    """Return the folder of a task, which does not exist."""
    return Path("/nonexistent") / ref.id


def planned(
    folder: Path, image: Manifest, *, flags: dict[str, str] | None = None, **how: Any
) -> Plan:
    """Plan a task `new` with the bundle in a folder."""
    ref = TaskRef(namespace="ns", id="new")
    request = CreateRequest(ref=ref, bundle=str(folder), checkpoint="/i")
    cuda = Cuda(nvidia_proc=str(folder / "none"), cdi_dirs=())
    config = Config(cuda=cuda, runsc=Runsc(flags=flags or {}))
    return plan(config, request, folder_of, ImageSource(manifest=image, **how))


def written(folder: Path, data: dict[str, Any]) -> Path:
    """Write a bundle."""
    (folder / "config.json").write_text(json.dumps(data), "utf-8")
    return folder


def test_a_member_of_the_image(tmp_path: Path, image: Manifest) -> None:
    """Without a bundle of its own it is the image's, in the current sandbox."""
    ready = planned(
        tmp_path, image, own_bundle=False, joining=Joining(name="two", sandbox_id="new-s")
    )

    assert ready.spec.args == ("two",)
    assert ready.sandbox_id == "new-s"
    assert pod.name_of(ready.spec) == "two"


def test_the_sandbox_of_the_image(tmp_path: Path, image: Manifest) -> None:
    """It names itself by its new id."""
    ready = planned(tmp_path, image, own_bundle=False)

    assert ready.spec.args == ("pause",)
    assert ready.sandbox_id == ""
    assert ready.spec.annotations[pod.SANDBOX_ID] == "new"


def test_a_bundle_says_which_it_is(tmp_path: Path, image: Manifest) -> None:
    """As containerd gives it: by its name in the pod, with the sandbox that it joins."""
    data = spec(tmp_path, "container", "one", arg="one")
    data["annotations"][pod.SANDBOX_ID] = "theirs"
    ready = planned(written(tmp_path, data), image)

    assert (ready.sandbox_id, pod.name_of(ready.spec)) == ("theirs", "one")


@pytest.mark.parametrize(
    ("name", "arg", "words"),
    (("three", "one", "no container three; it has one, two"), ("two", "one", "process.args")),
)
def test_a_bundle_of_another(
    tmp_path: Path, image: Manifest, name: str, arg: str, words: str
) -> None:
    """One that is not in the image, or is another container there, is refused."""
    data = spec(tmp_path, "container", name, arg=arg)

    with pytest.raises(InvalidArgument, match=words):
        planned(written(tmp_path, data), image)


HOOKS = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "id"]}]}


def test_hooks_of_an_image_run_only_when_asked_for(tmp_path: Path) -> None:
    """A spec that an image brings has no hooks; by name it keeps them."""
    data = spec(tmp_path) | {"hooks": HOOKS}
    image = manifest(spec=data, bundle=str(tmp_path))

    assert "hooks" not in planned(tmp_path, image, own_bundle=False).spec.data
    asked = planned(tmp_path, image, own_bundle=False, image_hooks=True)
    assert asked.spec.data["hooks"] == HOOKS


def test_hooks_of_the_callers_bundle_run(tmp_path: Path) -> None:
    """What containerd or a caller of ours gives is his own word, and the image's is left aside."""
    image = manifest(spec=spec(tmp_path) | {"hooks": {"poststop": []}}, bundle=str(tmp_path))

    ready = planned(written(tmp_path, spec(tmp_path) | {"hooks": HOOKS}), image)

    assert ready.spec.data["hooks"] == HOOKS


@pytest.mark.parametrize(
    ("flags", "namespaces", "network"),
    (
        ({}, [], "host"),
        ({}, [{"type": "network"}], ""),
        ({"network": "sandbox"}, [], ""),
        ({"network": "host"}, [], ""),
    ),
)
def test_the_network_of_a_new_sandbox(
    tmp_path: Path, flags: dict[str, str], namespaces: list[dict[str, str]], network: str
) -> None:
    """It is the host's for a spec without a network namespace, unless the operator has chosen."""
    data = spec(tmp_path) | {"linux": {"namespaces": namespaces}}
    request = CreateRequest(
        ref=TaskRef(namespace="ns", id="new"), bundle=str(written(tmp_path, data))
    )
    cuda = Cuda(nvidia_proc=str(tmp_path / "none"), cdi_dirs=())

    assert plan(Config(cuda=cuda, runsc=Runsc(flags=flags)), request, folder_of).network == network


def overlay_of(bundle: Path, image: Manifest | None = None, **flags: str) -> str:
    """Plan a new task with a bundle and runsc's flags; return the overlay2 that runsc gets."""
    ref = TaskRef(namespace="ns", id="new")
    request = CreateRequest(ref=ref, bundle=str(bundle))
    config = Config(
        paths=Paths(scratch="/var/scratch"),
        cuda=Cuda(nvidia_proc=str(bundle / "none"), cdi_dirs=()),
        runsc=Runsc(flags=flags),
    )
    source = ImageSource(manifest=image) if image else None
    return plan(config, request, folder_of, source).overlay2


def test_the_overlay_lies_in_our_own_folder(tmp_path: Path) -> None:
    """What a container writes is kept in paths.scratch where nothing else is said."""
    assert overlay_of(written(tmp_path, spec(tmp_path))) == "root:dir=/var/scratch"


def test_the_overlay_lies_in_containerds_folder(tmp_path: Path) -> None:
    """A bundle of containerd's has a folder on disk that goes with it."""
    bundle = tmp_path / "state/io.containerd.runtime.v2.task/ns/new"
    bundle.mkdir(parents=True)
    on_disk = tmp_path / "root"
    on_disk.mkdir()
    (bundle / "work").symlink_to(on_disk)

    assert overlay_of(written(bundle, spec(bundle))) == f"root:dir={on_disk}"


def test_the_operators_overlay_counts(tmp_path: Path) -> None:
    """Where the operator has said how it is, nothing is added."""
    bundle = written(tmp_path, spec(tmp_path))

    assert overlay_of(bundle, overlay2="none") == ""


def test_the_overlay_is_that_of_the_image(tmp_path: Path, image: Manifest) -> None:
    """An image that was saved in memory is restored in memory."""
    bundle = written(tmp_path, spec(tmp_path, "sandbox", arg="pause"))
    saved = msgspec.structs.replace(image, runsc_flags={"overlay2": "root:memory"})

    assert overlay_of(bundle, saved) == "root:memory"


@pytest.mark.parametrize(
    ("policy", "warnings"), (("warning", 1), ("ignore", 0), ("enforce", None), (None, None))
)
def test_a_bundle_is_compared_as_strictly_as_runsc_does(
    tmp_path: Path, image: Manifest, policy: str | None, warnings: int | None
) -> None:
    """The flag restore-spec-validation decides: refuse, warn, or take it."""
    flags = {"restore-spec-validation": policy} if policy else {}
    data = spec(tmp_path, "container", "two", arg="other")
    bundle = written(tmp_path, data)

    if warnings is None:
        with pytest.raises(InvalidArgument, match=r"process\.args"):
            planned(bundle, image, flags=flags)
    else:
        found = planned(bundle, image, flags=flags).warnings
        assert len(found) == warnings
        assert all("process.args" in text for text in found)


def test_the_remedy_is_one_that_the_caller_has(tmp_path: Path, image: Manifest) -> None:
    """Only who asks for a restore can leave out --bundle, not a client of containerd."""
    bundle = written(tmp_path, spec(tmp_path, "container", "two", arg="other"))

    with pytest.raises(InvalidArgument) as restore:
        planned(bundle, image, one_call=True)
    with pytest.raises(InvalidArgument) as create:
        planned(bundle, image)

    assert "--bundle" in restore.value.remedy
    assert "--bundle" not in create.value.remedy
    assert create.value.remedy
