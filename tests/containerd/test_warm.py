"""Warm starts through containerd: one annotation of ctr, and all later starts are restores."""

from __future__ import annotations

import json

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.cryo import COUNT, RUNTIME, Cryo
from tests.containerd.image import REFERENCE
from tests.containerd.named import WAIT_S, annotated, named
from tests.gated import gated
from tests.half_loaded import FILL, FILL_BYTES, HELD_BACK, is_in_use

pytestmark = pytest.mark.usefixtures("nothing_left")
READY = "io.cryo.warm-when=file:/ready"
INSTANCE = "/run/cryo/instance"
# Asks for its save, and keeps what it finds then.
ASKS = f"""
: > /run/cryo/checkpoint
until [ -s {INSTANCE}/result ]; do sleep 0.05; done
mkdir /found
cp {INSTANCE}/* /found
touch /found/all
exec sleep 1000
"""


@pytest.mark.every_combination
def test_one_annotation(cryo: Cryo) -> None:
    """Cold, saved when ready, and restored; with a damaged image the next start is cold again."""
    name = cryo.fresh("llama")
    flags = annotated(f"io.cryo.warm={name}", READY)
    with cryo.container("sh", "-c", COUNT, flags=flags) as cold:
        first = cryo.until_counts(cold)
        assert named(cryo, name).images() == []
        cryo.exec(cold, "touch", "/ready")
        image = named(cryo, name).until_saved()
        saved_at = cryo.until_counts(cold)
        with (
            cryo.container("sh", "-c", COUNT, flags=flags) as warm,
            cryo.container("sh", "-c", COUNT, flags=annotated(f"io.cryo.restore={name}")) as only,
        ):
            assert cryo.exec(warm, "ls", "/ready").out == "/ready\n"
            assert [cryo.until_counts(one) >= first for one in (warm, only)] == [True, True]
        assert saved_at > 0
    wait_until(lambda: named(cryo, name).use()["hits"] == 2, "the hits", WAIT_S)
    assert (named(cryo, name).use()["misses"], named(cryo, name).use()["saves"]) == (1, 1)

    (image / "pages.img").write_bytes(b"damaged")
    with cryo.events() as events, cryo.container("sh", "-c", COUNT, flags=flags) as again:
        assert cryo.exec(again, "ls", "/ready", check=False).status != 0
        wait_until(lambda: bool(events.of("/tasks/start")), "the start", WAIT_S)
        assert len(events.of("/tasks/start")) == 1
        exits = [json.loads(event.body)["id"] for event in events.of("/tasks/exit")]
        assert again not in exits
        cryo.exec(again, "touch", "/ready")
        named(cryo, name).until_saved(image)
        wait_until(lambda: image not in named(cryo, name).images(), "the damaged image", WAIT_S)
    assert "pages.img" in named(cryo, name).use()["reasons"][0]["text"]


def test_output_of_a_cold_start_after_a_failed_restore(cryo: Cryo) -> None:
    """The streams of an attached client stay open between the restore and the cold start."""
    name = cryo.fresh("echo")
    script = "echo begun; while [ ! -e /end ]; do sleep 0.1; done; echo ended; exit 7"
    warm = annotated(f"io.cryo.warm={name}", "io.cryo.warm-when=exec true")
    with cryo.container("sh", "-c", script, flags=warm):
        image = named(cryo, name).until_saved()
    state = bytearray((image / "checkpoint.img").read_bytes())
    state[len(state) // 2 :] = bytes(len(state) - len(state) // 2)
    (image / "checkpoint.img").write_bytes(state)
    path = cryo.folder / "scratch" / cryo.fresh("out")
    attached = cryo.fresh("attached")
    flags = annotated(
        f"io.cryo.restore={name}", "io.cryo.restore-policy=if-possible", "io.cryo.verify=none"
    )
    with cryo.removing(attached):
        pid = cryo.ctr_in_background(
            "run",
            "--runtime",
            RUNTIME,
            "--snapshotter",
            "native",
            *flags,
            REFERENCE,
            attached,
            "sh",
            "-c",
            script,
            output=path,
        )
        wait_until(lambda: path.exists() and "begun" in path.read_text("utf-8"), "output", WAIT_S)
        cryo.exec(attached, "touch", "/end")
        assert cryo.place.remote.wait(pid, WAIT_S) == 7
    lines = path.read_text("utf-8").splitlines()
    assert [line for line in lines if line in ("begun", "ended")] == ["begun", "ended"]
    reason = named(cryo, name).use()["reasons"][0]["text"]
    assert reason.startswith("runsc restore: the image cannot be read")


def test_a_name_that_nothing_has(cryo: Cryo) -> None:
    """With `restore` the run fails, and names the command that would help."""
    name = cryo.fresh("none")
    box = cryo.fresh("box")
    with cryo.removing(box):
        ran = cryo.run(box, "true", flags=annotated(f"io.cryo.restore={name}"), check=False)

    assert ran.status != 0
    assert f"there is no image named {name}" in ran.err
    assert f"cryo warm save {name} TASK" in ran.err


def found(cryo: Cryo, box: str) -> dict[str, str]:
    """Return what a container has found about itself, once it has."""
    wait_until(lambda: cryo.exec(box, "ls", "/found/all", check=False).status == 0, box, WAIT_S)
    names = ("result", "id", "environ")
    return {name: cryo.exec(box, "cat", f"/found/{name}").out for name in names}


def test_a_container_that_asks_for_its_save(cryo: Cryo) -> None:
    """It learns whether it goes on or was restored, with the id and environment of each."""
    name = cryo.fresh("asks")
    flags = annotated(f"io.cryo.warm={name}", "io.cryo.warm-when=self")
    command = ("sh", "-c", ASKS)
    with cryo.container(*command, flags=(*flags, "--env", "MINE=one")) as first:
        named(cryo, name).until_saved()
        with cryo.container(*command, flags=(*flags, "--env", "MINE=two")) as second:
            one, two = found(cryo, first), found(cryo, second)
            assert cryo.exec(second, "cat", f"{INSTANCE}/id").out == two["id"]
            denied = cryo.exec(second, "sh", "-c", f"echo x > {INSTANCE}/id", check=False)
            assert denied.status != 0
    assert (one["result"].strip(), two["result"].strip()) == ("resume", "restore")
    assert one["id"] != two["id"]
    assert "MINE=one" in one["environ"].split("\0")
    assert "MINE=two" in two["environ"].split("\0")


@pytest.mark.long
def test_an_image_that_is_loaded_in_the_background(cryo: Cryo) -> None:
    """With `io.cryo.background` it is in use after the start, until the sandbox has all of it."""
    name = cryo.fresh("background")
    command = ("sh", "-c", FILL)
    warm = annotated(f"io.cryo.warm={name}", "io.cryo.warm-when=file:/tmp/ready")
    with cryo.container(*command, flags=warm):
        image = named(cryo, name).until_saved()
    only = annotated(f"io.cryo.restore={name}", "io.cryo.background=true", "io.cryo.verify=none")
    with (
        gated(cryo.place, image / "pages.img", HELD_BACK) as gate,
        cryo.container(*command, flags=only) as box,
    ):
        gate.until_asked()
        assert (cryo.status(box), is_in_use(image)) == ("RUNNING", True)

        gate.open()
        wait_until(lambda: not is_in_use(image), "the end of the load", WAIT_S)

        assert cryo.exec(box, "sh", "-c", "cat /tmp/data | wc -c").out == f"{FILL_BYTES}\n"
