"""The sidecar's log: each line can be parsed, and says of which request it is."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from shim.client import AsyncClient
from shim.errors import CryoError
from shim.host import log_fields
from shim.model import CheckpointOptions, RestoreOptions
from shim.service import address as addresses
from shim.service import event_operations
from shim.service.operation import Operation
from shim.service.tables import CRYO, TASK
from shim.service.ttrpc.client import Client as TtrpcClient
from tests.wire.helpers_logs import fields_of, lines_of
from tests.wire.test_serve import listening

SECRET = "hunter2"  # noqa: S105 - no password: a text to be searched for
PROGRAM = """
import asyncio, sys
from pathlib import Path
from shim.entry import serve
from shim.task import tasks
from tests.wire.fakes import FakeTasks, as_tasks

sidecar = serve.Sidecar
serve.Sidecar = lambda config, **given: sidecar(config, as_tasks(FakeTasks()), **given)
serve.run(Path(sys.argv[1]), serve.Overrides())
"""
OPERATIONS = [one for table in (TASK, CRYO) for one in table.operations.values()]


@contextlib.contextmanager
def running(address: str, folder: Path, form: str) -> Iterator[Path]:
    """Run a sidecar as a process of its own; give its log, which is complete after the end."""
    config, log = folder / "config.toml", folder / "log"
    config.write_text(
        f'[paths]\nstate = "{folder}/run"\n[server]\naddress = "{address}"\n'
        f'[log]\nlevel = "debug"\nformat = "{form}"\n'
    )
    argv = [sys.executable, "-c", PROGRAM, str(config)]
    with log.open("wb") as output, subprocess.Popen(argv, stderr=output, stdout=output) as ran:
        try:
            yield log
            ran.send_signal(signal.SIGTERM)
            assert ran.wait(60) == 0, log.read_text()
        finally:
            ran.kill()


def request_of(operation: Operation[Any, Any]) -> Message:
    """Make a request that names a task that is not there."""
    request: Message = operation.request()
    for name, value in (("id", "absent"), ("namespace", "ns"), ("operation", token(operation))):
        if name in request.DESCRIPTOR.fields_by_name:
            setattr(request, name, value)
    return request


def token(operation: Operation[Any, Any]) -> str:
    """Return the operation id that a client chooses."""
    return f"of-{operation.name}"


async def ask(channel: grpc.aio.Channel, operation: Operation[Any, Any]) -> None:
    """Make one request of a kind, and take whatever comes of it."""
    make: Any = channel.unary_stream if operation.streams else channel.unary_unary
    call = make(operation.path)(
        request_of(operation).SerializeToString(),
        # That one ends only with its call.
        timeout=0.5 if operation is event_operations.FollowEvents else 20,
        metadata=(("containerd-namespace", "ns"),),
    )
    with contextlib.suppress(grpc.aio.AioRpcError):
        if operation.streams:
            async for _ in call:
                pass
        else:
            await call


@pytest.mark.parametrize("form", ("logfmt", "json"))
async def test_each_line_of_every_request(address: str, tmp_path: Path, form: str) -> None:
    """One request of each kind over gRPC: its line has its operation id, namespace and task."""
    with running(address, tmp_path, form) as log:
        await listening(address)
        async with grpc.aio.insecure_channel(addresses.target(address)) as channel:
            for operation in OPERATIONS:
                await ask(channel, operation)

    lines = lines_of(log.read_text(), form)
    ended = [line for line in lines if "took_s" in line]
    assert {line["method"] for line in ended} >= {one.name for one in OPERATIONS}
    assert [line for line in ended if not line.get("operation")] == []
    assert [line for line in lines if line["logger"].startswith("shim.service.grpc")] != []
    of_requests = [line for line in lines if line["logger"].startswith("shim.service.")]
    assert [line for line in of_requests if not line.get("operation")] == []
    for operation in OPERATIONS:
        fields = operation.request.DESCRIPTOR.fields_by_name
        found = [line for line in ended if line["method"] == operation.name]
        if "operation" in fields:
            assert token(operation) in {line["operation"] for line in found}
        if "id" in fields:
            assert ("ns", "absent") in {(line["namespace"], line.get("task")) for line in found}


async def test_a_request_over_ttrpc(address: str, tmp_path: Path) -> None:
    """Also a request for nothing that exists has an operation id, and each has its own."""
    with running(address, tmp_path, "logfmt") as log:
        await listening(address)
        client = await TtrpcClient.connect(addresses.light_path(addresses.parse(address)) or "")
        for _ in range(2):
            with pytest.raises(CryoError, match="no method"):
                await client.exchange(TASK.service, "Nothing", b"", timeout_s=20)
        with pytest.raises(CryoError):
            await client.exchange(TASK.service, "State", b"\xff", timeout_s=20)
        await client.close()

    edge = "shim.service.ttrpc.connection"
    lines = [line for line in lines_of(log.read_text()) if line["logger"] == edge]
    assert len(lines) == 3
    assert len({line["operation"] for line in lines}) == 3


async def test_what_succeeds_and_what_is_secret(address: str, tmp_path: Path) -> None:
    """A checkpoint has one line at the level info; streams and environments are in no line."""
    with running(address, tmp_path, "logfmt") as log:
        await listening(address)
        async with AsyncClient(address) as client:
            await client.create("a", "/b")
            await client.start("a")
            process = {"args": ["/bin/true", SECRET], "env": [f"TOKEN={SECRET}"]}
            await client.exec("a", "e", process)
            await client.checkpoint("a", CheckpointOptions())
            await client.restore("b", RestoreOptions(image_path="/images/a"))

    text = log.read_text()
    lines = lines_of(text)
    assert SECRET not in text
    (line,) = [one for one in lines if one.get("method") == "Checkpoint"]
    assert (line["level"], line["task"], line["forwarded"]) == ("info", "a", "false")
    assert len(line["operation"]) == 32


def test_a_parser_that_is_strict() -> None:
    """The parser of these tests refuses what is not logfmt, and what Python prints of objects."""
    assert fields_of('a=1 b="x \\"y\\" z" c=/a/b') == {"a": "1", "b": 'x "y" z', "c": "/a/b"}
    for text in ("a", "a=", "a=b c", 'a="b', "a=1 a=2", 'a="b"c=d'):
        with pytest.raises(AssertionError):
            fields_of(text)
    for text in ("Stdio(stdin='')", "datetime.datetime(2026)", "{'pid': 1}"):
        with pytest.raises(AssertionError):
            lines_of(f'time=1 level=info msg="{text}"')


def test_fields_are_of_their_request() -> None:
    """They end with the request, and what outlives it has none."""
    with log_fields.request():
        log_fields.add(task="a", namespace="")
        first = dict(log_fields.current())
        with log_fields.no_request():
            assert log_fields.current() == {}
        with log_fields.request():
            assert log_fields.operation_id() != first["operation"]
        assert log_fields.current() == first

    assert first.keys() == {"operation", "task"}
    assert log_fields.current() == {}
