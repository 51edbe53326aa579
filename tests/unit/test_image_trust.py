"""The policy of [trust]: whose images are accepted, and what those from elsewhere may use."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from shim.config import Config, Paths, Trust
from shim.errors import ImageCorrupt, NotFound, PermissionDenied, ResourceExhausted
from shim.image import keys, labels, signature, trust
from shim.image.directory import open_image_dir
from shim.image.images import Images
from shim.image.labels import Labels
from shim.image.manifest import NAME, Manifest, Member
from shim.image.side_files import LABELS, SIGNATURES
from shim.image.trust import Action
from shim.image.verify import HeldImage
from tests.unit.image_helpers import manifest, seal_at, sealed
from tests.unit.test_oci_host_requests import HARMLESS

ROOTFS = "/srv/images/one/rootfs"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a sealed image whose spec requests nothing but its root filesystem."""
    (tmp_path / "roots" / "one").mkdir(parents=True)
    root = {"path": str(tmp_path / "roots" / "one")}
    sealed(tmp_path / "image", spec={**HARMLESS, "root": root}, bundle="/b")
    return tmp_path / "image"


def key(folder: Path, name: str = "key") -> str:
    """Make a pair of keys; return the path of the private one."""
    keys.generate(folder / name)
    return str(folder / name)


def sign(image: Path, private: str) -> None:
    """Sign an image."""
    secret = keys.read_private(Path(private))
    payload = signature.image_statement(image)
    signature.add(image, secret.public, secret.sign(signature.to_sign(payload)))


def check(image: Path, config: Trust, action: Action = Action.RESTORE) -> None:
    """Check a folder."""
    with open_image_dir(image) as folder:
        trust.check_folder(config, action, folder)


def to_restore(image: Path, config: Trust | None = None, *, own_specs: bool = False) -> Manifest:
    """Read the manifest as a restore does."""
    images = Images(Config(paths=Paths(images=str(image.parent)), trust=config or Trust()))

    async def work() -> Manifest:
        async with images.holding(
            str(image), "default", strict=True, own_specs=own_specs, then=HeldImage.read
        ) as (_, manifest):
            return manifest

    return asyncio.run(work())


def test_defaults_let_local_work_go_on() -> None:
    """Without keys all are accepted; with keys what comes from elsewhere has to be signed."""
    required = trust.requires_signature
    with_keys = Trust(keys=("/k.pub",))
    strict = Trust(restore="signed", pull="any", import_="signed")

    assert [required(Trust(), action) for action in Action] == [False, False, False]
    assert [required(with_keys, action) for action in Action] == [False, True, True]
    assert [required(strict, action) for action in Action] == [True, False, True]


def test_a_signature_by_any_configured_key_is_enough(image: Path, tmp_path: Path) -> None:
    """One by another key is not, and the error names both."""
    mine, other = key(tmp_path), key(tmp_path, "other")
    config = Trust(keys=(f"{mine}.pub", f"{other}.pub"), restore="signed")
    sign(image, other)

    check(image, config)
    only_mine = Trust(keys=(f"{mine}.pub",), restore="signed")
    with pytest.raises(PermissionDenied, match="is signed by") as caught:
        check(image, only_mine)
    assert f"{mine}.pub" in caught.value.message
    assert keys.read_public(Path(f"{other}.pub")).id[:16] in caught.value.message


def test_what_is_not_signed_is_refused_where_that_is_required(image: Path, tmp_path: Path) -> None:
    """Also without any key, and with one that cannot be read: never accepted by mistake."""
    public = f"{key(tmp_path)}.pub"

    with pytest.raises(PermissionDenied, match="and it is not signed"):
        check(image, Trust(keys=(public,)), Action.PULL)
    with pytest.raises(PermissionDenied, match="keys lists no key"):
        check(image, Trust(pull="signed"), Action.PULL)
    with pytest.raises(NotFound):
        check(image, Trust(keys=(str(tmp_path / "no.pub"),)), Action.IMPORT)
    check(image, Trust(keys=(public,)), Action.RESTORE)


def test_what_was_offered_is_checked_before_it_is_fetched(image: Path, tmp_path: Path) -> None:
    """A pull has the manifest and the signatures as bytes, and no folder yet."""
    private = key(tmp_path)
    config = Trust(keys=(f"{private}.pub",))
    sign(image, private)
    data, envelope = (image / NAME).read_bytes(), (image / SIGNATURES).read_bytes()
    found = to_restore(image)

    trust.check_offered(config, Action.PULL, found, data, envelope, "r/x:1")
    with pytest.raises(PermissionDenied, match="r/x:1 is refused"):
        trust.check_offered(config, Action.PULL, found, data, None, "r/x:1")
    with pytest.raises(ImageCorrupt):
        trust.check_offered(config, Action.PULL, found, data + b" ", envelope, "r/x:1")
    small = Trust(max_image_bytes=found.size_bytes - 1)
    with pytest.raises(ResourceExhausted, match="max_image_bytes"):
        trust.check_offered(small, Action.PULL, found, data, envelope, "r/x:1")


def test_an_unsealed_image_is_never_signed(tmp_path: Path) -> None:
    """Whatever lies beside it."""
    private = key(tmp_path)
    sealed(tmp_path / "sealed")
    sign(tmp_path / "sealed", private)
    (tmp_path / "sealed" / NAME).unlink()
    seal_at(tmp_path / "sealed", manifest(), sealed=False)

    with pytest.raises(PermissionDenied):
        check(tmp_path / "sealed", Trust(keys=(f"{private}.pub",), restore="signed"))


def test_a_restore_reads_only_an_accepted_manifest(image: Path, tmp_path: Path) -> None:
    """Before a task is made of it."""
    private = key(tmp_path)
    config = Trust(keys=(f"{private}.pub",), restore="signed")

    with pytest.raises(PermissionDenied, match="is not signed"):
        to_restore(image, config)
    sign(image, private)
    assert to_restore(image, config).task == "t1"


def elsewhere(image: Path) -> Path:
    """Mark an image as pulled."""
    labels.write(image, Labels(source="registry.example.com/x:1"))
    return image


def test_an_image_from_elsewhere_needs_an_accepted_root_filesystem(image: Path) -> None:
    """Its path is the image's: `/` would be as good. Folders of the configuration are accepted."""
    elsewhere(image)
    roots = image.parent / "roots"

    with pytest.raises(PermissionDenied, match=f"t1: root filesystem {roots}/one") as caught:
        to_restore(image, own_specs=True)
    assert "registry.example.com/x:1" in caught.value.message
    assert "--trust-spec" in caught.value.remedy
    to_restore(image, Trust(rootfs=(str(roots),)), own_specs=True)
    to_restore(image)


def test_an_image_that_was_made_here_is_not_restricted(image: Path) -> None:
    """As before: its spec is the operator's own."""
    to_restore(image, own_specs=True)


@pytest.mark.parametrize("how", ("copytree", "damaged"))
def test_labels_stay_with_a_copy(image: Path, tmp_path: Path, how: str) -> None:
    """And labels that cannot be read are those of an image from elsewhere."""
    elsewhere(image)
    shutil.copytree(image, tmp_path / "copy")
    if how == "damaged":
        (tmp_path / "copy" / LABELS).write_bytes(b"\xff")

    with pytest.raises(PermissionDenied, match="root filesystem"):
        to_restore(tmp_path / "copy", own_specs=True)


@pytest.mark.parametrize("where", ("link", "..", "folder itself", "missing", "prefix"))
def test_no_path_leads_out_of_the_accepted_folders(tmp_path: Path, where: str) -> None:
    """Links and `..` are resolved; the folder itself is not a root filesystem."""
    roots = tmp_path / "roots"
    (roots / "one").mkdir(parents=True)
    (tmp_path / "roots-2").mkdir()
    (roots / "link").symlink_to("/")
    path = {
        "link": roots / "link",
        "..": roots / "one" / ".." / "..",
        "folder itself": roots,
        "missing": roots / "none",
        "prefix": tmp_path / "roots-2",
    }[where]
    made = manifest(spec={**HARMLESS, "root": {"path": str(path)}}, bundle="/b")

    assert trust.requests(made, [str(roots)]) == (f"t1: root filesystem {path}",)


def member(**more: Any) -> Member:
    """Make another container of a pod."""
    spec = {**HARMLESS, "root": {"path": ROOTFS}, **more}
    return Member(task="m1", name="m1", spec=spec, spec_digest="", bundle="/b")


def test_containers_of_a_pod_are_looked_at_too(tmp_path: Path) -> None:
    """One error has what each of them requests; a broken spec is not accepted either."""
    hooks = {"createRuntime": [{"path": "/bin/touch"}]}
    made = manifest(
        spec={**HARMLESS, "root": {"path": ROOTFS}},
        bundle="/b",
        members=(member(hooks=hooks), member(ociVersion=1)),
        runsc_flags={"overlay2": "none"},
    )

    with pytest.raises(PermissionDenied) as caught:
        trust.check_foreign(made, "s3://b/p", (), "/i")

    for text in (
        f"t1: root filesystem {ROOTFS}",
        "m1: hook createRuntime /bin/touch",
        "m1: a spec that is not valid",
        "overlay2=none",
    ):
        assert text in caught.value.message
