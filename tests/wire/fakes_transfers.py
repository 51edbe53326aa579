"""Pushes and pulls that are only remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import Transferred
from shim.image.named import ImageRef
from shim.model import Report

if TYPE_CHECKING:
    from tests.wire.fakes import FakeTasks

TRANSFERRED = Transferred(
    image_path="/images/a",
    digest="sha256:00ff",
    bytes_total=1 << 40,
    bytes_moved=1 << 33,
    bytes_reused=1 << 39,
    blobs_moved=3,
    blobs_reused=4000,
    seconds=1.5,
    reference="r.example/a:v1",
    name="a:v1",
)


class FakeTransfers:
    """One image elsewhere."""

    def __init__(self, core: FakeTasks) -> None:
        self._core = core

    async def push(
        self, image: str, namespace: str, to: str, settings: TransferSettings, report: Report
    ) -> Transferred:
        self._core.begin("push", image, namespace, to, settings)
        await self._core.work(report)
        return TRANSFERRED

    async def pull(
        self,
        wanted: str,
        namespace: str,
        settings: TransferSettings,
        report: Report,
        *,
        name: str | None = None,
    ) -> Transferred:
        self._core.begin("pull", wanted, namespace, settings, name)
        await self._core.work(report)
        return TRANSFERRED

    async def pull_warm(
        self, wanted: str, ref: ImageRef, settings: TransferSettings, report: Report
    ) -> Transferred:
        self._core.begin("pull_warm", wanted, ref, settings)
        await self._core.work(report)
        return TRANSFERRED
