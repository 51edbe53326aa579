"""The page of a sidecar over real sockets: what it shows, live progress, and who may read it."""

from __future__ import annotations

import asyncio
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shim.client import AsyncClient
from shim.config import Http
from shim.entry import optional
from shim.entry.serve import Sidecar
from shim.errors import CryoError, ImageCorrupt, InvalidArgument, Unavailable, Unimplemented
from shim.image.verify_cache import VerifyCache
from shim.model import (
    CheckpointOptions,
    CreateRequest,
    ImageView,
    Phase,
    Progress,
    RestoreOptions,
    TaskRef,
    TaskView,
)
from shim.page import reads
from shim.state import TaskState
from shim.transaction import timeline_file
from shim.transaction.journal import Journal, Operation
from tests.unit.image_helpers import sealed
from tests.unit.test_metrics_observer import SAVED
from tests.wire import fakes
from tests.wire.fakes import IMAGE, FakeTask, FakeTasks, as_tasks
from tests.wire.helpers_page import Served, served
from tests.wire.test_serve import config_of
from tests.wire.test_shims import a_shim

SCRIPT = "<script>alert(1)</script>\x1b[2J\"'"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def tasks(**states: TaskState) -> FakeTasks:
    """Make a core with tasks."""
    core = FakeTasks()
    for name, state in states.items():
        ref = TaskRef(namespace="default", id=name)
        core.tasks[ref] = FakeTask(CreateRequest(ref=ref, bundle="/b"), state=state)
    return core


def folder_of(sidecar: Served, name: str, namespace: str = "default") -> Path:
    """Make the folder of a task of the sidecar."""
    folder = sidecar.state / "tasks" / namespace / name
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("where", ("127.0.0.1:0", "[::1]:0", "unix:{}"))
async def test_the_overview(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """Tasks by namespace with their states, and what was done last; complete without scripts."""
    path = tmp_path / "own" / "page.sock"
    core = tasks(job=TaskState.RUNNING, other=TaskState.PAUSED)
    async with served(address, caplog, Http(address=where.format(path)), core) as sidecar:
        timeline_file.add(folder_of(sidecar, "job"), SAVED)
        Journal(folder_of(sidecar, "other")).open(Operation.CHECKPOINT, "/i")
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = await sidecar.ask("/")

    assert found.status == 200
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert '<a href="/tasks/default/job">job</a>' in found.body
    assert '<span class="badge paused">paused</span>' in found.body
    assert 'Checkpoint of <a href="/tasks/default/other">other</a>' in found.body
    assert "shown from its journal" in found.body
    assert "checkpoint of" in found.body.partition("Last operations")[2]
    assert not re.findall(r"(?:src|href)=\"(?!/)", found.body), "nothing is from elsewhere"
    assert not re.findall(r"<script(?! src)|\son\w+=|\sstyle=", found.body)
    assert not path.exists()


async def test_live_progress(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Phase, bytes, processes and warnings of a checkpoint while it runs, then its result."""
    core = tasks(a=TaskState.RUNNING)
    core.hold = True
    async with (
        served(address, caplog, core=core) as sidecar,
        AsyncClient(address) as client,
        sidecar.events() as events,
    ):
        await events.until("operations", "No operation is under way")
        saving = asyncio.create_task(client.checkpoint("a", CheckpointOptions()))
        shown = await events.until("operations", "of 10.0 GiB")
        assert '<li aria-current="step">save</li>' in shown
        assert "<li>preflight</li>" in shown
        assert "process 7 " in shown
        assert "process w/7 " in shown
        assert "a connection was cut" in shown
        assert (await sidecar.ask("/")).body.count("5.0 GiB of 10.0 GiB") == 1
        core.release.set()
        await saving
        await events.until("operations", "No operation is under way")
        core.fail = Unavailable("the disk is gone")
        with pytest.raises(Unavailable):
            await client.restore("b", RestoreOptions(image_path="/images/a"))
        core.fail = None
        assert "restore of b" in await events.until("recent", "the disk is gone")


async def test_progress_of_a_shim(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a shim does is shown from its journal, whether the sidecar forwards it or not."""
    async with (
        served(address, caplog) as sidecar,
        AsyncClient(address, namespace="ns") as client,
        sidecar.events() as events,
        a_shim(sidecar.state, "job") as core,
    ):
        await events.until("tasks", "/tasks/ns/job")
        journal = Journal(sidecar.state / "shims" / "x" / "tasks" / "ns" / "job")
        journal.open(Operation.CHECKPOINT, "/i")
        journal.process(7, "train", "locked")
        journal.note(phase=Phase.FREEZE)
        shown = await events.until("operations", "Not asked for through this sidecar")
        assert '<li aria-current="step">freeze</li>' in shown
        assert 'process 7 <span class="badge locked">' in shown
        core.hold = True
        saving = asyncio.create_task(client.checkpoint("job", CheckpointOptions()))
        shown = await events.until("operations", "Run by the shim that owns the task")
        assert shown.count("<article") == 1
        journal.close()
        core.release.set()
        await saving
        await events.until("operations", "No operation is under way")


async def test_text_of_others_is_escaped(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a container, a caller or a registry writes is text, on each page and in events."""

    class Hostile(FakeTasks):
        async def list(self, namespace: str) -> list[TaskView]:
            found = await super().list(namespace)
            return [
                replace(one, warning=SCRIPT, bundle=SCRIPT, restored_from=SCRIPT) for one in found
            ]

    core = Hostile()
    core.tasks = tasks(a=TaskState.RUNNING).tasks
    core.hold = True
    image = replace(IMAGE, path=SCRIPT, task=SCRIPT, source=SCRIPT, names={"n": (SCRIPT,)})
    monkeypatch.setattr(fakes, "IMAGE", image)
    updates = (
        Progress(phase=Phase.LOCK, pid=7, pid_state=SCRIPT, container=SCRIPT, message=SCRIPT),
        Progress(phase=Phase.LOCK, message=SCRIPT, warning=True),
    )
    monkeypatch.setattr(fakes, "UPDATES", updates)
    hostile = replace(SAVED, error=SCRIPT, image_path=SCRIPT, notes=(SCRIPT,), task=SCRIPT)
    monkeypatch.setattr(fakes, "TIMELINE", hostile)
    async with served(address, caplog, core=core) as sidecar, AsyncClient(address) as client:
        timeline_file.add(folder_of(sidecar, "a"), hostile)
        options = CheckpointOptions(image_path=SCRIPT.replace("\x1b", ""))
        saving = asyncio.create_task(client.checkpoint("a", options))
        await core.holding.wait()
        async with sidecar.events() as events:
            shown = [await events.until("operations", "script"), (await events.next())[1]]
        paths = ("/", "/images", "/tasks/default/a", "/tasks/default/a/0.svg", "/tasks/default/x")
        shown += [(await sidecar.ask(path)).body for path in paths]
        shown += [(await sidecar.ask("/tasks/default/%3Cscript%3E")).body]
        core.release.set()
        await saving

    for text in shown:
        assert "<script>" not in text
        assert "\x1b" not in text
    assert all(ESCAPED in text for text in shown[:2] + shown[2:6])


async def test_an_image(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its contents, its timeline as a picture and as a table, and whether it was verified."""
    core = FakeTasks()
    path = Path(config_of(address).paths.state) / "images" / "default" / "t1"
    manifest = sealed(path)
    view = replace(IMAGE, path=str(path), task="t1", digest=manifest.digest)

    async def images() -> list[ImageView]:
        return [view, replace(IMAGE, path="/damaged", digest="")]

    core.images.list = images  # type: ignore[method-assign]
    async with served(address, caplog, core=core) as sidecar:
        listed = await sidecar.ask("/images")
        before = await sidecar.ask(f"/images/{manifest.digest}")
        assert VerifyCache(sidecar.state / "verified").remember_image(path, manifest)
        after = await sidecar.ask(f"/images/{manifest.digest}")
        (path / "pages.img").write_bytes(b"changed")
        changed = await sidecar.ask(f"/images/{manifest.digest}")
        picture = await sidecar.ask(f"/images/{manifest.digest}/timeline.svg")
        absent = [
            await sidecar.ask(f"/images/{name}") for name in ("00", "..", "%2e%2e%2fx", "a/b")
        ]

    assert f'<a href="/images/{manifest.digest}">default/t1</a>' in listed.body
    assert '<span class="badge failed">damaged</span>' in listed.body
    assert "not verified" in before.body
    assert '<span class="badge ok">verified</span>' in after.body
    assert "not verified" in changed.body
    assert "release-20260905.0" in after.body
    assert "python3" in after.body
    assert "pages.img" in after.body
    assert "<td>save" in after.body or ">save</td>" in after.body
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.body.startswith("<svg")
    assert "script" not in picture.headers["content-security-policy"]
    assert [one.status for one in absent] == [404] * 4


async def test_a_task(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its state and its operations, the last one first, with a picture of each."""
    async with served(address, caplog, core=tasks(a=TaskState.RUNNING)) as sidecar:
        page = await sidecar.ask("/tasks/default/a")
        pictures = [await sidecar.ask(f"/tasks/default/a/{number}.svg") for number in (0, 1, 2)]
        missing = await sidecar.ask("/tasks/default/b")
        wrong = await sidecar.ask("/tasks/default/%20")

    assert page.body.index("/a/1.svg") < page.body.index("/a/0.svg")
    assert [one.status for one in pictures] == [200, 200, 404]
    assert "there is no task b in namespace default" in missing.body
    assert (missing.status, wrong.status) == (404, 400)


async def test_the_findings_of_doctor(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are those of the command; those who ask soon after each other get the same ones."""
    async with served(address, caplog) as sidecar:
        found = await asyncio.gather(*(sidecar.ask("/doctor") for _ in range(3)))

    assert "/etc/cryo/config.toml" in found[0].body
    assert "paths.images" in found[0].body or "storage" in found[0].body
    assert len({one.body for one in found}) == 1


async def test_what_fails_is_said(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that cannot be looked up does not hide the others; a page says why, and its status."""
    monkeypatch.setattr(reads, "_FAILED_S", 0.0)
    core = tasks(a=TaskState.RUNNING)
    async with served(address, caplog, core=core) as sidecar:
        folder_of(sidecar, "a")
        core.fail = Unavailable("the filesystem hangs", remedy="mount it again")
        overview, images = await sidecar.ask("/"), await sidecar.ask("/images")
        core.fail = ImageCorrupt("a bad image")
        corrupt = await sidecar.ask("/images")
        core.fail = None
        later = await sidecar.ask("/images")

    assert overview.status == 200
    assert "the filesystem hangs" in overview.body
    assert "No operation is under way" in overview.body
    assert (images.status, corrupt.status, later.status) == (503, 500, 200)
    assert "mount it again" in images.body


async def test_a_store_that_hangs(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """The tasks are shown without it, and it is not asked again while it does not answer."""
    core = tasks(a=TaskState.RUNNING)
    answers = asyncio.Event()
    calls: list[bool] = []

    async def images() -> list[ImageView]:
        calls.append(answers.is_set())
        await answers.wait()
        return []

    core.images.list = images  # type: ignore[method-assign]
    answers.set()
    async with served(address, caplog, core=core) as sidecar:
        answers.clear()
        calls.clear()
        folder_of(sidecar, "a")
        shown = [(await sidecar.ask("/")).body for _ in range(2)]
        answers.set()

    assert all('<a href="/tasks/default/a">a</a>' in text for text in shown)
    assert calls == [False]


async def test_what_is_not_there(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown paths, other methods, and requests that are none."""
    async with served(address, caplog) as sidecar:
        for path in ("/x", "/static/x", "/static/..%2fsidecar.py", "/images/", "//", "/tasks/a"):
            assert (await sidecar.ask(path)).status in {404, 307}, path
        assert (await sidecar.ask("/", "POST")).status == 405
        assert (await sidecar.ask("/", host="rebound.example")).status == 421
        head = await sidecar.ask("/", "HEAD")
        assert (head.status, head.body) == (200, "")
        assert (await sidecar.ask("/events", "HEAD")).status == 200
        assert (await sidecar.ask("/healthz")).body == "ok\n"
        for name in ("page.css", "page.js", "icon.svg"):
            assert (await sidecar.ask(f"/static/{name}")).status == 200


async def test_a_page_with_a_token(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is needed for everything but the probe of its health, by any name of the host."""
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    http = Http(address="0.0.0.0:0", token_file=str(path))
    async with served(address, caplog, http) as sidecar:
        sidecar.where = sidecar.where.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        for target in ("/", "/events", "/static/page.js", "/images", "/doctor"):
            assert (await sidecar.ask(target)).status == 401
        assert (await sidecar.ask("/healthz", host="node")).status == 200
        bearer = {"authorization": "Bearer 0123456789abcdef"}
        assert (await sidecar.ask("/", host="node", **bearer)).status == 200
        exchanged = await sidecar.ask("/?token=0123456789abcdef")
        cookie = exchanged.headers["set-cookie"].partition(";")[0]
        assert exchanged.headers["location"] == "/"
        assert (await sidecar.ask("/", cookie=cookie)).status == 200
    assert "0123456789abcdef" not in caplog.text


async def test_the_sidecar_does_not_start_without_a_token(address: str) -> None:
    """An address that others reach needs one."""
    config = replace(config_of(address), http=Http(address="0.0.0.0:0"))
    with pytest.raises(InvalidArgument, match=r"http\.address"):
        Sidecar(config, as_tasks(FakeTasks()))


async def test_a_port_that_is_taken(address: str) -> None:
    """The sidecar says so, and does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = Http(address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(CryoError, match="cannot serve the page"):
            await Sidecar(replace(config_of(address), http=http), as_tasks(FakeTasks())).serve()


@pytest.mark.parametrize("package", ("starlette", "uvicorn", "jinja2"))
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """The error has the command that installs it."""
    for name in list(sys.modules):
        if name.startswith("shim.page") or name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    config = replace(config_of("unix:/run/x.sock"), http=Http(address="127.0.0.1:0"))
    with pytest.raises(Unimplemented, match=package) as caught:
        optional.page(config, "")
    assert "pip install 'cryoshim[page]'" in caught.value.remedy
    assert optional.page(replace(config, http=Http()), "") is None
