"""What a checkpoint does when the call does not say: as config.toml's [defaults] say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Config, Defaults
from shim.errors import Refused
from shim.image.verify import read_manifest
from shim.model import Connections, CudaMode, EngineName
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping

# 192.168.1.1:80, as /proc/net/tcp writes it.
PEER = "0101A8C0:0050 01"


class Configured(Scene):
    """A scene whose config.toml says something of checkpoints."""

    said = Defaults()

    @property
    def config(self) -> Config:
        """Give the scene's settings, with these defaults."""
        return msgspec.structs.replace(super().config, defaults=self.said)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Configured]:
    """Give a scene with a CUDA process on a runsc that has both engines."""
    with sleeping() as process:
        yield Configured(tmp_path, process, FakeGuest([Cuda(7, "train")]))


async def test_the_engine_is_the_configured_one(scene: Configured) -> None:
    """A call that names no engine gets the configured one, and the image says so."""
    scene.said = Defaults(engine=EngineName.PHASED)

    result = await scene.checkpoint()

    assert result.engine == EngineName.PHASED
    assert read_manifest(Path(result.image_path)).options.engine is EngineName.PHASED


@pytest.mark.parametrize(
    ("said", "call"),
    (
        (Defaults(cuda=CudaMode.IGNORE), {"cuda": CudaMode.AUTO}),
        (Defaults(engine=EngineName.PHASED), {"engine": EngineName.AUTO}),
    ),
)
async def test_a_call_comes_before_what_is_configured(
    scene: Configured, said: Defaults, call: dict[str, Any]
) -> None:
    """A call that says `auto` means it, whatever is configured."""
    scene.said = said

    result = await scene.checkpoint(**call)

    assert result.engine == EngineName.BUILTIN


async def test_connections_are_judged_as_configured(scene: Configured) -> None:
    """A configured no to cut connections holds for calls that say nothing, and for those alone."""
    scene.said = Defaults(connections=Connections.REFUSE)
    scene.guest.tcp = (PEER,)

    assert isinstance(await scene.error(), Refused)
    assert (await scene.checkpoint(connections=Connections.CUT)).warnings


async def test_cuda_is_insisted_on_as_configured(scene: Configured) -> None:
    """A configured `require` refuses a task without a GPU."""
    scene.said = Defaults(cuda=CudaMode.REQUIRE)
    scene.gpu = False

    assert isinstance(await scene.error(), Refused)
