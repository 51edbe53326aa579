"""Damaged images of real containers: refused before runsc makes anything of them."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.client import Client
from shim.errors import CryoError, InvalidArgument, PermissionDenied
from shim.image import keys, signature
from shim.image.side_files import SIGNATURES
from shim.model import KeyFile, Progress, RestoreOptions, Verify
from tests.builds import RunscBuild
from tests.damage import OF_IMAGES
from tests.real.helpers_rig import Rig, machine_with

pytestmark = pytest.mark.timeout(180)
SAMPLE = 24
# Subcommands of runsc that make a sandbox or a container.
MAKING = {"create", "restore", "run"}


class Watched:
    """A machine that requires signatures, whose calls of runsc are recorded, and an image."""

    def __init__(self, rig: Rig, calls: Path, image: Path) -> None:
        self.rig = rig
        self.image = image
        self._calls = calls

    def made(self) -> list[str]:
        """Return the calls since the last time by which runsc would make something."""
        lines = self._calls.read_text().splitlines()
        self._calls.write_text("")
        return [line for line in lines if MAKING & set(line.split())]


@pytest.fixture(scope="module")
def watched(runsc: RunscBuild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Give one with the signed image of a container."""
    folder = tmp_path_factory.mktemp("watched")
    calls, program = folder / "calls", folder / "runsc"
    calls.touch(mode=0o600)
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {runsc.path} "$@"\n')
    program.chmod(0o755)
    public = keys.generate(folder / "key")
    build = dataclasses.replace(runsc, path=program)
    with machine_with(build, trust={"keys": [public.name], "restore": "signed"}) as rig:
        rig.sleeper("one")
        image = Path(rig.checkpoint("one", image_path=str(folder / "image")).image_path)
        rig.end("one")
        sign(rig.client, image, folder / "key")
        yield Watched(rig, calls, image)


def sign(client: Client, image: Path, key: Path) -> None:
    """Sign an image through the sidecar."""
    private = keys.read_private(key)
    signed = private.sign(signature.to_sign(client.image_statement(str(image))))
    signature.add(image, private.public, signed)


def test_an_intact_image_is_restored(watched: Watched) -> None:
    """By the calls of runsc that the other test looks for."""
    watched.made()
    watched.rig.restore("two", watched.image, verify=Verify.FULL)
    watched.rig.end("two")

    assert watched.made() != []


def test_the_sidecar_shows_signers_and_differences(watched: Watched, tmp_path: Path) -> None:
    """By the keys of its configuration, and by those of the caller; of another image too."""
    client, other = watched.rig.client, keys.generate(tmp_path / "other")
    given = KeyFile(name=other.name, pem=other.pem)

    verified = client.verify(str(watched.image))
    with pytest.raises(PermissionDenied, match="is not signed by"):
        client.verify(str(watched.image), keys=[given])
    sign(client, watched.image, tmp_path / "other")
    both = client.verify(str(watched.image), keys=[given])
    updates: list[Progress] = []
    found = client.diff(str(watched.image), str(watched.image), on_progress=updates.append)

    assert [one["key"].rpartition("/")[2] for one in verified["signed_by"]] == ["key.pub"]
    assert verified["host_checked"]
    assert [one["key"].rpartition("/")[2] for one in both["signed_by"]] == ["key.pub", "other.pub"]
    assert (found.manifest, found.containers, found.files) == ((), (), ())
    assert 0 < found.shared_bytes == found.old_bytes == found.new_bytes
    assert updates[-1].bytes_done == updates[-1].bytes_total > 0


def test_a_signature_is_required_by_whatever_loads_an_image(
    watched: Watched, tmp_path: Path
) -> None:
    """A restore, a clone, a create as containerd's, and without reading the files."""
    rig, image = watched.rig, tmp_path / "image"
    shutil.copytree(watched.image, image)
    (image / SIGNATURES).unlink()
    bundle = str(rig.bundle("one", ("/bin/sleep", "1000")))
    options = RestoreOptions(image_path=str(image))
    watched.made()

    for call in (
        lambda: rig.restore("two", image),
        lambda: rig.restore("two", image, bundle=bundle),
        lambda: rig.client.create("two", bundle, checkpoint=str(image)),
        lambda: rig.client.clone({"two": options}),
    ):
        with pytest.raises(PermissionDenied, match="and it is not signed"):
            call()
    with pytest.raises(InvalidArgument, match="--verify none"):
        rig.restore("two", watched.image, verify=Verify.NONE)

    assert watched.made() == []
    assert rig.client.list() == []


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_no_damaged_image_reaches_runsc(watched: Watched, tmp_path: Path, seed: int) -> None:
    """Nothing is made of it, no task is left, and the intact image is as it was."""
    rng, image = random.Random(seed), tmp_path / "image"
    shutil.copytree(watched.image, image)
    rng.choice(OF_IMAGES)(rng, image)
    watched.made()

    with pytest.raises(CryoError):
        watched.rig.restore("two", image, verify=Verify.FULL)

    assert watched.made() == []
    assert watched.rig.client.list() == []
