"""What a container learns about itself, and how it asks for its checkpoint, on real runsc."""

from __future__ import annotations

import pytest

from shim.errors import HookFailed
from shim.model import RestoreOptions
from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import WAIT_S, Rig, refused

pytestmark = pytest.mark.timeout(180)

INSTANCE = "/run/cryo/instance"
# Asks for its checkpoint, waits for the result, and notes it with what it is now.
ASKS = """
: > /run/cryo/checkpoint
cd /run/cryo/instance
until [ -s result ]; do sleep 0.05; done
mine=$(tr '\\0' '\\n' < environ | sed -n 's/^MINE=//p')
random=$(od -An -tx1 -v random | tr -d ' \\n')
echo "$(cat result)|$(cat id)|$mine|$random" > /tmp/new
mv /tmp/new /tmp/line
exec sleep 1000
"""


def bundle_of(rig: Rig, name: str, mine: str, annotations: dict[str, str]) -> str:
    """Write the bundle of a container of a user that asks for its checkpoint."""
    bundle = rig.bundle(
        name,
        ["/bin/sh", "-c", ASKS],
        user={"uid": 1234, "gid": 0},
        env=["PATH=/usr/bin:/bin", f"MINE={mine}"],
    )
    with rig.edited(bundle) as spec:
        spec["annotations"] = annotations
    return str(bundle)


def line(rig: Rig, name: str) -> list[str]:
    """Return what the application has noted, once it has."""
    words: list[str] = []

    def noted() -> bool:
        words[:] = rig.behind.exec(name, ["/bin/cat", "/tmp/line"]).out.strip().split("|")
        return len(words) > 1

    wait_until(noted, f"the result in {name}", WAIT_S)
    return words


def asked(rig: Rig, name: str) -> bool:
    """Whether the application has asked."""
    return rig.guest.exec(name, ["/bin/ls", "/run/cryo/checkpoint"]).status == 0


@pytest.mark.every_combination
def test_an_application_that_asks(rig: Rig) -> None:
    """It learns whether it goes on or was restored, with what differs in each copy."""
    annotations = {"io.cryo.instance": "true"}
    rig.client.create("job", bundle_of(rig, "job", "first", annotations))
    rig.client.start("job")
    wait_until(lambda: asked(rig, "job"), "the request", WAIT_S)

    image = rig.checkpoint("job").image_path
    rig.restore("same", image)
    rig.client.restore(
        "other",
        RestoreOptions(image_path=image, bundle=bundle_of(rig, "other", "second", annotations)),
    )

    found = {name: line(rig, name) for name in ("job", "same", "other")}
    assert [words[0] for words in found.values()] == ["resume", "restore", "restore"]
    assert [words[2] for words in found.values()] == ["first", "first", "second"]
    assert len({words[1] for words in found.values()}) == 3
    assert len({words[3] for words in found.values()}) == 3
    assert {len(words[3]) for words in found.values()} == {64}
    outside = rig.sim.folder / "state/tasks/default/job/instance"
    assert (outside / "id").read_text("ascii").strip() == found["job"][1]


def test_a_warm_start_that_the_application_asks_for(rig: Rig) -> None:
    """It is saved when it asks, and the next container of the template is restored."""
    annotations = {"io.cryo.warm": "asks", "io.cryo.warm-when": "self"}
    images = rig.sim.folder / "images" / "default" / "asks"
    for name, word in (("first", "resume"), ("second", "restore")):
        rig.client.create(name, bundle_of(rig, name, name, annotations))
        rig.client.start(name)
        # Only then the test runs a program in it, which the old runsc cannot save.
        wait_until(lambda: any(images.glob("*/*/cryo.json")), "the image", WAIT_S)
        assert line(rig, name)[0::2] == [word, name]


def test_what_the_container_can_change(rig: Rig) -> None:
    """Nothing on the host; what it writes is in the memory of the sandbox, and bounded."""
    annotations = {"io.cryo.instance": "true", "io.cryo.hook.pre-freeze": "exec false"}
    rig.client.create("job", bundle_of(rig, "job", "first", annotations))
    rig.client.start("job")
    wait_until(lambda: asked(rig, "job"), "the request", WAIT_S)

    for argv in (
        ["/bin/sh", "-c", f"echo x > {INSTANCE}/result"],
        ["/bin/touch", f"{INSTANCE}/new"],
        ["/bin/rm", f"{INSTANCE}/id"],
        ["/usr/bin/head", "-c", "1000000", "/dev/zero", "--output", "/run/cryo/big"],
    ):
        assert rig.guest.exec("job", argv).status, argv

    refused(HookFailed, lambda: rig.checkpoint("job"))
    assert line(rig, "job")[0].startswith("error the hook pre-freeze of job failed")
