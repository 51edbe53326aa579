"""Checkpoint and restore with ctr's own commands, on each line of containerd."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.builds import LINES
from tests.containerd.cryo import COUNT, Cryo

TAR = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
COUNTER = ("sh", "-c", COUNT)


@pytest.fixture(autouse=True)
def images_apart(cryo: Cryo, nothing_left: None) -> Iterator[None]:
    """Remove the images of a test, and check that nothing else of it is left."""
    with cryo.images_apart():
        yield


def sends_options(cryo: Cryo) -> bool:
    """Return whether this ctr sends options to runtimes other than runc: from 2.0 on."""
    return cryo.build.numbers >= (2, 0)


def folders_left(cryo: Cryo) -> list[str]:
    """Return the temporary directories into which containerd has unpacked checkpoints."""
    return [path.name for path in (cryo.folder / "tmp").glob("ctrd-checkpoint*")]


def test_a_task_is_saved_and_runs_on(cryo: Cryo) -> None:
    """`ctr tasks checkpoint` makes an image of the running task, which continues."""
    with cryo.container(*COUNTER) as name:
        cryo.until_counts(name)
        with cryo.events() as events:
            reference = cryo.ctr("tasks", "checkpoint", name).out.strip()
            events.until("/tasks/checkpointed")

        assert cryo.status(name) == "RUNNING"
        assert cryo.media_types(reference)[:2] == [TAR, CONFIG]
        cryo.until_counts(name)
        assert not folders_left(cryo)


@pytest.mark.every_combination
def test_a_saved_task_may_end(cryo: Cryo) -> None:
    """`--exit` stops the task when the image is complete, if ctr sends it; 1.x does not."""
    with cryo.container(*COUNTER) as name:
        cryo.until_counts(name)
        reference = cryo.ctr("tasks", "checkpoint", "--exit", name).out.strip()

        assert cryo.media_types(reference)[:2] == [TAR, CONFIG]
        if sends_options(cryo):
            cryo.until_status(name, "STOPPED")
            assert "exit code 137" in cryo.ctr("tasks", "delete", name).err
        else:
            assert cryo.status(name) == "RUNNING"


def test_a_container_says_how_it_is_saved(cryo: Cryo) -> None:
    """Annotations set on every line what ctr cannot: stop the task, and do not hash the image."""
    said = ("io.cryo.exit=true", "io.cryo.seal=false")
    flags = tuple(word for pair in said for word in ("--annotation", pair))
    with cryo.container(*COUNTER, flags=flags) as name:
        cryo.until_counts(name)
        reference = cryo.ctr("tasks", "checkpoint", name).out.strip()

        cryo.until_status(name, "STOPPED")
        with tarfile.open(cryo.blob(reference, TAR)) as saved:
            manifest = json.load(saved.extractfile("cryo.json"))  # type: ignore[arg-type]
        assert not manifest["sealed"]


def test_a_container_with_settings_of_its_own(cryo: Cryo) -> None:
    """`--runtime-config-path` sets the settings file of a container's shim."""
    own = cryo.folder / "own.toml"
    own.write_text(f'{cryo.config.read_text("utf-8")}\n[defaults]\ncuda = "require"\n', "utf-8")
    with cryo.container(*COUNTER, flags=("--runtime-config-path", str(own))) as name:
        cryo.until_counts(name)
        ran = cryo.ctr("tasks", "checkpoint", name, check=False)

    assert ran.status != 0
    assert "--cuda require" in ran.err
    # The fork server for these settings stays.
    cryo.expect_nothing_new(ignored=("forkserver",))


def test_a_mistake_in_an_annotation(cryo: Cryo) -> None:
    """An unknown `io.cryo.` annotation is refused, and the error lists the known ones."""
    with cryo.removing("odd"):
        flags = ("-d", "--annotation", "io.cryo.engin=phased")
        ran = cryo.run("odd", "true", flags=flags, check=False)

    assert ran.status != 0
    assert "engin" in ran.err


@pytest.mark.every_combination
def test_an_image_at_a_path(cryo: Cryo) -> None:
    """`--image-path` writes an image there, without a second copy, if ctr sends it."""
    path = cryo.folder / "scratch" / cryo.fresh("image")
    with cryo.container(*COUNTER) as name:
        cryo.until_counts(name)
        before = set(cryo.image_names())
        cryo.ctr("tasks", "checkpoint", "--image-path", str(path), name)
        (reference,) = set(cryo.image_names()) - before

        assert cryo.status(name) == "RUNNING"
        if sends_options(cryo):
            assert (path / "cryo.json").is_file()
            assert all(entry.is_file() for entry in path.iterdir())
            assert TAR not in cryo.media_types(reference)
        else:
            assert not path.exists()
            assert TAR in cryo.media_types(reference)


# ctr 1.x sends no options to runtimes other than runc.
@pytest.mark.parametrize("containerd_build", LINES[2:], indirect=True)
def test_a_path_that_is_taken(cryo: Cryo) -> None:
    """A directory that is not empty is refused by name, and the task keeps running."""
    path = cryo.folder / "scratch" / cryo.fresh("taken")
    path.mkdir()
    (path / "mine").write_text("keep", "utf-8")
    with cryo.container(*COUNTER) as name:
        ran = cryo.ctr("tasks", "checkpoint", "--image-path", str(path), name, check=False)

        assert ran.status != 0
        assert str(path) in ran.err
        assert [entry.name for entry in path.iterdir()] == ["mine"]
        cryo.until_counts(name)


def test_a_container_comes_back(cryo: Cryo) -> None:
    """A restored container continues where it was saved; containerd's unpacked copy is removed."""
    again = cryo.fresh("back")
    with cryo.container(*COUNTER) as name, cryo.removing(again):
        before = cryo.until_counts(name)
        reference = cryo.save(name)
        cryo.remove(name)
        with cryo.events() as events:
            cryo.bring_back(reference, again)
            events.until("/tasks/start")

        assert events.topics() == ["/tasks/create", "/tasks/start"]
        assert cryo.until_counts(again) >= before
        assert not folders_left(cryo)
        cryo.ctr("tasks", "pause", again)
        cryo.ctr("tasks", "resume", again)
        cryo.kill_task(again)
        assert "exit code 137" in cryo.ctr("tasks", "delete", again).err


def test_two_of_one_image(cryo: Cryo) -> None:
    """Two containers restored from one image run beside the first, independently."""
    names = (cryo.fresh("twin"), cryo.fresh("twin"))
    with cryo.container(*COUNTER) as name, cryo.removing(*names):
        cryo.until_counts(name)
        reference = cryo.save(name, "--rw")
        cryo.each(lambda twin: cryo.bring_back(reference, twin, "--rw"), names)

        assert not folders_left(cryo)
        cryo.exec(names[0], "sh", "-c", "echo one > /mine")
        assert cryo.exec(names[1], "cat", "/mine", check=False).status != 0
        cryo.kill_task(names[0])
        for other in (names[1], name):
            cryo.until_counts(other)


def test_a_restored_container_ends_by_itself(cryo: Cryo) -> None:
    """The exit code of a restored container is its own, and it can be saved again."""
    once, twice = cryo.fresh("again"), cryo.fresh("again")
    script = "until [ -e /end ]; do sleep 0.02; done; exit 7"
    with cryo.container("sh", "-c", script) as name, cryo.removing(once, twice):
        wait_until(lambda: cryo.exec(name, "true", check=False).status == 0, name, 60)
        with cryo.images_apart():
            cryo.bring_back(cryo.save(name), once)
        cryo.bring_back(cryo.save(once), twice)
        for again in (once, twice):
            # Its exit may be that of the sandbox.
            cryo.exec(again, "touch", "/end", check=False)
            cryo.until_status(again, "STOPPED")
            assert "exit code 7" in cryo.ctr("tasks", "delete", again).err


def test_a_paused_task_stays_paused(cryo: Cryo) -> None:
    """A paused task is saved, stays paused, and continues when it is resumed."""
    with cryo.container(*COUNTER) as name:
        cryo.until_counts(name)
        cryo.ctr("tasks", "pause", name)
        reference = cryo.ctr("tasks", "checkpoint", name).out.strip()

        assert TAR in cryo.media_types(reference)
        assert cryo.status(name) == "PAUSED"
        cryo.ctr("tasks", "resume", name)
        cryo.until_counts(name)


# containerd 2.x accepts a blob that it already has.
@pytest.mark.parametrize("containerd_build", LINES[:2], indirect=True)
def test_a_second_save_of_the_same(cryo: Cryo) -> None:
    """A second image of one container fails in containerd 1.x, because of containerd.

    It cannot commit the spec's blob twice: `tasks checkpoint` fails, `containers checkpoint` makes
    an image without the task. If the first image is removed, or from 2.0 on, it works.
    """
    with cryo.container(*COUNTER) as name:
        first, second = cryo.save(name), cryo.save(name)
        assert TAR in cryo.media_types(first)
        assert TAR not in cryo.media_types(second)
        refused = cryo.ctr("containers", "restore", "--live", "never", second, check=False)
        assert "media type not found" in refused.err
        refused = cryo.ctr("tasks", "checkpoint", name, check=False)
        assert "already exists" in refused.err
        cryo.ctr("images", "rm", "--sync", first, second)
        assert TAR in cryo.media_types(cryo.save(name))
        cryo.until_counts(name)


@pytest.mark.parametrize("what", ("cryo.json", "pages.img"))
def test_a_damaged_image(cryo: Cryo, what: str) -> None:
    """A restore from a damaged image fails with the reason, and leaves nothing."""
    again = cryo.fresh("broken")
    with cryo.container(*COUNTER) as name, cryo.removing(again):
        cryo.until_counts(name)
        reference = cryo.save(name)
        damage(cryo.blob(reference, TAR), what)

        ran = cryo.ctr("containers", "restore", "--live", again, reference, check=False)

        assert ran.status != 0
        assert what in ran.err
        # ctr does not remove a task that failed to start.
        assert cryo.status(again) in {"", "STOPPED"}
        assert not folders_left(cryo)
        cryo.until_counts(name)


def damage(archive: Path, name: str) -> None:
    """Change a byte of a file in an archive."""
    with tarfile.open(archive) as tar:
        entry = tar.getmember(name)
    with archive.open("r+b") as file:
        file.seek(entry.offset_data + entry.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes((byte[0] ^ 0xFF,)))
