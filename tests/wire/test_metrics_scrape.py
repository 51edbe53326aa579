"""Metrics of a sidecar over loopback and a unix socket, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from shim.client import AsyncClient
from shim.config import Metrics
from shim.entry.serve import Sidecar
from shim.errors import CryoError, InvalidArgument, NotFound, Unavailable
from shim.image import named_use
from shim.image.named import ImageRef
from shim.image.named_use import NameOutcome
from shim.metrics import server as servers
from shim.model import CheckpointOptions, ImageView, utcnow
from shim.transaction import timeline_file
from tests.unit.test_metrics_observer import SAVED
from tests.wire.fakes import IMAGE, FakeTasks, as_tasks
from tests.wire.test_serve import config_of, listening
from tests.wire.test_shims import a_hung_shim, a_shim

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Served:
    """A sidecar whose metrics are served."""

    def __init__(self, address: str, state: Path, core: FakeTasks, where: str) -> None:
        self.address = address
        self.state = state
        self.core = core
        self.where = where

    async def ask(self, request: str) -> tuple[str, dict[str, str], str]:
        """Send a request; return status, headers and body."""
        if self.where.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(self.where.removeprefix("unix:"))
        else:
            host, _, port = self.where.removeprefix("http://").rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(request.encode())
        async with asyncio.timeout(30):
            answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return status, headers, body

    async def scrape(self, accept: str = "*/*") -> dict[str, Metric]:
        """Return the families of a scrape by name."""
        status, headers, body = await self.ask(
            f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
        )
        assert status == "HTTP/1.1 200 OK"
        assert headers["content-length"] == str(len(body))
        if "openmetrics" in headers["content-type"]:
            families = parse_openmetrics(body)  # type: ignore[no-untyped-call]  # it has no types
            return {family.name: family for family in families}
        return {family.name: family for family in text_string_to_metric_families(body)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float | None:
    """Return the value of a sample with these labels."""
    found = [
        one.value
        for family in families.values()
        for one in family.samples
        if one.name == sample and one.labels == labels
    ]
    assert len(found) < 2
    return found[0] if found else None


@contextlib.asynccontextmanager
async def served(
    address: str, caplog: pytest.LogCaptureFixture, metrics: str, core: FakeTasks | None = None
) -> AsyncIterator[Served]:
    """Run a sidecar, and stop it."""
    core = core or FakeTasks()
    config = replace(config_of(address), metrics=Metrics(address=metrics))
    state = Path(config.paths.state)
    config = replace(config, paths=replace(config.paths, images=str(state / "images")))
    caplog.set_level(logging.INFO, "shim.metrics.sidecar")
    caplog.clear()
    life = asyncio.create_task(Sidecar(config, as_tasks(core)).serve())
    try:
        await listening(address)
        (where,) = re.findall(r"metrics are served on (\S+)", caplog.text)
        yield Served(address, state, core, where)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(life, 60)


@pytest.mark.parametrize("where", ("127.0.0.1:0", "[::1]:0", "unix:{}"))
@pytest.mark.parametrize("accept", ("*/*", OPENMETRICS))
async def test_a_scrape(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, accept: str
) -> None:
    """Requests, failures, tasks by state, the store and the names, as Prometheus parses them."""
    path = tmp_path / "own" / "metrics.sock"
    async with served(address, caplog, where.format(path)) as sidecar:
        async with AsyncClient(address) as client:
            await client.create("a", "/b")
            await client.start("a")
            await client.checkpoint("a", CheckpointOptions())
            with pytest.raises(NotFound):
                await client.pause("absent")
        (sidecar.state / "tasks" / "default" / "a").mkdir(parents=True)
        ref = ImageRef(namespace="k8s.io", name="llama", kubernetes_namespace="team-a")
        folder = ref.folder(sidecar.state / "images")
        for outcome in (NameOutcome.HIT, NameOutcome.HIT, NameOutcome.MISS, NameOutcome.REFUSAL):
            named_use.count(folder, outcome, make=True)
        (folder / "fingerprint").mkdir()

        found = await sidecar.scrape(accept)
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert value(found, "cryo_request_duration_seconds_count", method="Checkpoint") == 1
    assert value(found, "cryo_request_failures_total", method="Pause", error="NotFound") == 1
    labels = {"owner": "sidecar", "namespace": "default", "state": "running"}
    assert value(found, "cryo_tasks", **labels) == 1
    assert value(found, "cryo_images") == 1
    assert value(found, "cryo_images_size_bytes") == IMAGE.size_bytes
    named = {"namespace": "k8s.io", "kubernetes_namespace": "team-a", "name": "llama"}
    for label, number in (("hit", 2), ("miss", 1), ("refusal", 1)):
        assert value(found, "cryo_warm_starts_total", **named, outcome=label) == number
    assert {one.value for one in found["cryo_collector_success"].samples} == {1.0}
    assert not path.exists()


async def test_tasks_and_operations_of_shims(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Their states are asked for; what they did is counted once, by their files."""
    async with served(address, caplog, "127.0.0.1:0") as sidecar:
        with a_hung_shim(sidecar.state, "hung", paused=True):
            async with a_shim(sidecar.state, "a"):
                await sidecar.scrape()
                task = sidecar.state / "shims" / "x" / "tasks" / "ns" / "a"
                saved = replace(SAVED, began_at=utcnow())
                timeline_file.add(task, saved)
                await sidecar.scrape()
                failed = replace(saved, began_at=utcnow(), error="lost", error_kind="CudaError")
                timeline_file.add(task, failed)
                await sidecar.scrape()
                found = await sidecar.scrape()

    of = {"owner": "shim", "namespace": "ns"}
    assert value(found, "cryo_tasks", **of, state="running") == 1
    assert value(found, "cryo_tasks", **of, state="paused") == 1
    assert value(found, "cryo_collector_success", collector="shims") == 1
    of = {"operation": "checkpoint"}
    assert value(found, "cryo_operation_duration_seconds_count", **of) == 2
    assert value(found, "cryo_operation_failures_total", **of, error="CudaError") == 1
    assert value(found, "cryo_image_bytes_total", **of) == SAVED.size_bytes


async def test_a_part_that_fails_is_left_out(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are shown, and cryo_collector_success says which failed."""
    core = FakeTasks()
    async with served(address, caplog, "127.0.0.1:0", core) as sidecar:
        (sidecar.state / "tasks" / "default").mkdir(parents=True)
        core.fail = Unavailable("the filesystem hangs")
        found = await sidecar.scrape()
        core.fail = None
        later = await sidecar.scrape()

    assert value(found, "cryo_collector_success", collector="images") == 0
    assert value(found, "cryo_collector_success", collector="tasks") == 0
    assert value(found, "cryo_collector_success", collector="journals") == 1
    assert value(found, "cryo_images") is None
    assert value(found, "cryo_parked_tasks") == 0
    assert value(later, "cryo_images") == 1
    assert "the metrics of images are missing: the filesystem hangs" in caplog.text


async def test_a_store_that_hangs(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are shown, and it is not asked again while it does not answer."""
    monkeypatch.setattr("shim.metrics.exporter._PART_S", 0.3)
    core = FakeTasks()
    answers = asyncio.Event()
    calls: list[bool] = []

    async def images() -> list[ImageView]:
        calls.append(answers.is_set())
        await answers.wait()
        return [IMAGE]

    core.images.list = images  # type: ignore[method-assign]
    answers.set()
    async with served(address, caplog, "127.0.0.1:0", core) as sidecar:
        answers.clear()
        calls.clear()
        hung = [await sidecar.scrape() for _ in range(3)]
        answers.set()
        later = await sidecar.scrape()

    for found in hung:
        assert value(found, "cryo_collector_success", collector="images") == 0
        assert value(found, "cryo_collector_success", collector="tasks") == 1
    assert value(later, "cryo_images") == 1
    assert calls in ([False], [False, True])
    assert "the metrics of images are missing: no answer in 0.3 s" in caplog.text


async def test_what_is_no_scrape(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Other paths and methods are refused; a client that sends nothing is left after a time."""
    async with served(address, caplog, "127.0.0.1:0") as sidecar:
        for request, answer in (
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
            ("\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("\xff" * 100 + "\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ):
            status, _, _ = await sidecar.ask(request)
            assert status == answer
        status, headers, body = await sidecar.ask("HEAD /metrics HTTP/1.1\r\n\r\n")
        assert (status, body) == ("HTTP/1.1 200 OK", "")
        assert int(headers["content-length"]) > 0
        status, _, _ = await sidecar.ask("GET /metrics HTTP/1.1\r\n" + "a: b\r\n" * 9999)
        assert status == ""
        await sidecar.scrape()


async def test_a_client_that_is_slow_is_left(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections have a time and a number, so that a client cannot use up descriptors."""
    monkeypatch.setattr(servers, "_HEAD_S", 0.5)
    monkeypatch.setattr(servers, "_CONNECTIONS", 2)
    async with served(address, caplog, "127.0.0.1:0") as sidecar:
        slow = [asyncio.create_task(sidecar.ask("GET ")) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert (await sidecar.ask("GET /metrics HTTP/1.1\r\n\r\n"))[0] == ""
        for one in slow:
            assert (await one)[0] == ""
        await sidecar.scrape()


@pytest.mark.parametrize("where", ("0.0.0.0:9464", "nonsense"))
async def test_an_address_that_others_reach(address: str, where: str) -> None:
    """The sidecar does not start with it."""
    config = replace(config_of(address), metrics=Metrics(address=where))
    with pytest.raises(InvalidArgument, match=r"metrics\.address"):
        Sidecar(config, as_tasks(FakeTasks()))


async def test_a_port_that_is_taken(address: str) -> None:
    """The sidecar says so, and does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = replace(config_of(address), metrics=Metrics(address=f"127.0.0.1:{port}"))
        with pytest.raises(CryoError, match="cannot serve metrics"):
            await Sidecar(config, as_tasks(FakeTasks())).serve()
