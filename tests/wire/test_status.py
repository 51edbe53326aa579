"""Each error of the core reaches every kind of client: as a status, and as the same error again."""

from __future__ import annotations

import logging

import grpc
import grpc.aio
import pytest

from shim import errors
from shim.api.containerd.task.v3 import shim_pb2, shim_pb2_grpc
from shim.api.cryo.v1 import cryo_pb2
from shim.client import AsyncClient, Client
from shim.errors import CryoError, CudaError, InvalidArgument, RunscError
from shim.service import status
from shim.service.server import Server
from tests.wire.conftest import Sidecar
from tests.wire.fakes import FakeTasks, every_error, failing

EXPECTED = {
    "CryoError": "INTERNAL",
    "InvalidArgument": "INVALID_ARGUMENT",
    "InvalidBundle": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "FailedPrecondition": "FAILED_PRECONDITION",
    "IllegalState": "FAILED_PRECONDITION",
    "Refused": "FAILED_PRECONDITION",
    "HostMismatch": "FAILED_PRECONDITION",
    "Busy": "ABORTED",
    "ImageCorrupt": "DATA_LOSS",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "ResourceExhausted": "RESOURCE_EXHAUSTED",
    "PermissionDenied": "PERMISSION_DENIED",
    "Unimplemented": "UNIMPLEMENTED",
    "Unavailable": "UNAVAILABLE",
    "HookFailed": "FAILED_PRECONDITION",
    "Impossible": "FAILED_PRECONDITION",
    "RunscError": "INTERNAL",
    "CudaError": "INTERNAL",
}


def test_every_class_has_its_code() -> None:
    """The table says for each class of the tree what containerd's clients understand."""
    assert {type(e).__name__: status.code_of(e).name for e in every_error()} == EXPECTED


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
async def test_an_error_comes_back_whole(
    client: AsyncClient, core: FakeTasks, error: CryoError
) -> None:
    """Class, message, remedy and what the class adds survive, from unary calls and streams."""
    with failing(core, error):
        for call in (client.pids("a"), client.checkpoint("a")):
            with pytest.raises(CryoError) as caught:
                await call

            assert type(caught.value) is type(error)
            assert vars(caught.value) == vars(error)


async def test_other_clients_see_the_remedy(server: Server, core: FakeTasks, address: str) -> None:
    """The status alone says what happened and what to do."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = shim_pb2_grpc.TaskStub(channel)
        missing = errors.NotFound("no task a", remedy="create it")
        with failing(core, missing), pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.State(shim_pb2.StateRequest(id="a"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "no task a; create it"


async def test_a_bug_is_logged_and_not_shown(
    client: AsyncClient, core: FakeTasks, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is INTERNAL with a plain message; its traceback is in the log."""
    caplog.set_level(logging.ERROR)
    bug = KeyError("secret")
    with failing(core, bug), pytest.raises(CryoError, match="internal error: Key") as caught:
        await client.pids("a")

    assert "secret" not in str(caught.value)
    assert "Traceback" in caplog.text
    assert "secret" in caplog.text


async def test_a_long_message_is_cut(client: AsyncClient, core: FakeTasks) -> None:
    """A message of any length or script still fits gRPC's headers."""
    long = errors.NotFound("ü" * 100_000, remedy="ü" * 100_000)
    with failing(core, long), pytest.raises(errors.NotFound) as caught:
        await client.pids("a")

    assert caught.value.message.startswith("üüü")
    assert caught.value.remedy.startswith("üüü")


def test_the_blocking_client_raises_the_same(blocking: Client, sidecar: Sidecar) -> None:
    """Errors of the blocking client are made by the same table."""
    for error in (RunscError("start", 1, "no"), CudaError("stuck", pid=7)):
        with failing(sidecar.core, error):
            for call in (blocking.pids, blocking.checkpoint):
                with pytest.raises(type(error)) as caught:
                    call("a")

                assert vars(caught.value) == vars(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    (
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.DATA_LOSS, errors.ImageCorrupt),
        (grpc.StatusCode.INTERNAL, CryoError),
        (grpc.StatusCode.UNKNOWN, CryoError),
    ),
)
def test_a_bare_status_is_an_error_of_its_class(
    code: grpc.StatusCode, kind: type[CryoError]
) -> None:
    """A status from elsewhere, or with a garbled or unknown ErrorInfo, still has a class."""
    newer = cryo_pb2.ErrorInfo(kind="Novelty", message="x").SerializeToString()
    for packed in (None, b"\xff\xff", newer):
        error = status.error_of(code, "so", packed)

        assert type(error) is kind
        assert error.message == "so"


@pytest.mark.parametrize("id", ("", ".", "..", "a/b", "-a", "a\n", "x" * 77, "ü"))
async def test_unsafe_ids_are_refused(client: AsyncClient, core: FakeTasks, id: str) -> None:
    """An id that is no safe file name does not reach the core."""
    async with grpc.aio.insecure_channel(client.address) as channel:
        stub = shim_pb2_grpc.TaskStub(channel)
        for call in (
            stub.Start(shim_pb2.StartRequest(id=id)),
            stub.Exec(shim_pb2.ExecProcessRequest(id="a", exec_id=id)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call

            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(InvalidArgument):
        await client.state(id)
    assert core.calls == []


async def test_no_server_says_how_to_start_one(address: str) -> None:
    """Without a sidecar both clients say so and what to do."""
    async with AsyncClient(address) as client:
        with pytest.raises(errors.Unavailable, match="no sidecar answers") as caught:
            await client.info()
    assert "cryo serve" in caught.value.remedy
    with Client(address) as blocking, pytest.raises(errors.Unavailable, match="no sidecar"):
        blocking.info()
