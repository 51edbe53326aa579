"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc.aio

from shim.client import calls, channel
from shim.client.calls import Call, Stream
from shim.config import DEFAULT_ADDRESS
from shim.errors import CryoError
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Exit,
    ImageView,
    Mount,
    ProcessView,
    Report,
    RestoreOptions,
    RestoreResult,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
)
from shim.wire import endpoint

_Value = TypeVar("_Value")
_Task = str | TaskRef

_NULL = Stdio()
_USUAL = CheckpointOptions()


class AsyncClient:
    """Talks to a sidecar; any number of calls at once."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        namespace: str = channel.DEFAULT_NAMESPACE,
        *,
        timeout_s: float = channel.DEFAULT_TIMEOUT_S,
    ) -> None:
        """Take where the sidecar is, the namespace of plain task ids, and how long a call may take.

        The timeout is for questions, SIGKILL, `close_io` and `resize_pty`. What changes a task or
        an image is bounded by its owner's settings, and `wait` by nothing. Nothing is sent before
        the first call.
        """
        self.address = address
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(endpoint.target(address), options=channel.OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close()

    async def create(
        self,
        task: _Task,
        bundle: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = _NULL,
        checkpoint: str = "",
    ) -> int:
        """Make a task of a bundle, or of an image; return its pid, 0 with an image."""
        request = CreateRequest(
            ref=self._ref(task),
            bundle=bundle,
            rootfs=tuple(rootfs),
            stdio=stdio,
            checkpoint=checkpoint,
        )
        return await self._call(calls.create(request))

    async def start(self, task: _Task, exec_id: str = "") -> int:
        """Start the init process or an exec; return its pid."""
        return await self._call(calls.start(self._ref(task), exec_id))

    async def state(self, task: _Task, exec_id: str = "") -> ProcessView:
        """Tell how a process is."""
        return await self._call(calls.state(self._ref(task), exec_id))

    async def wait(self, task: _Task, exec_id: str = "") -> Exit:
        """Return when a process has ended; at once when it has already."""
        return await self._call(calls.wait(self._ref(task), exec_id))

    async def kill(
        self, task: _Task, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal to one process, or to every process of the task."""
        await self._call(calls.kill(self._ref(task), signal, exec_id, everyone=everyone))

    async def exec(
        self, task: _Task, exec_id: str, process: Mapping[str, Any], stdio: Stdio = _NULL
    ) -> None:
        """Add a process (an OCI `process` object) to a running task; `start` runs it."""
        await self._call(calls.exec_(self._ref(task), exec_id, process, stdio))

    async def delete(self, task: _Task, exec_id: str = "") -> ProcessView:
        """Forget a process that has ended; the view says how it did."""
        return await self._call(calls.delete(self._ref(task), exec_id))

    async def pids(self, task: _Task) -> list[int]:
        """List the task's processes, by the container's own numbers."""
        found = await self._call(calls.pids(self._ref(task)))
        return list(found.guest or found.host)

    async def pause(self, task: _Task) -> None:
        """Stop the task's processes where they are."""
        await self._call(calls.pause(self._ref(task)))

    async def resume(self, task: _Task) -> None:
        """Let a paused task go on."""
        await self._call(calls.resume(self._ref(task)))

    async def update(self, task: _Task, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""
        await self._call(calls.update(self._ref(task), resources))

    async def stats(self, task: _Task) -> Stats:
        """Measure the task."""
        return await self._call(calls.stats(self._ref(task)))

    async def close_io(self, task: _Task, exec_id: str = "") -> None:
        """Close a process's stdin."""
        await self._call(calls.close_io(self._ref(task), exec_id))

    async def resize_pty(self, task: _Task, width: int, height: int, exec_id: str = "") -> None:
        """Tell a process's terminal its size, in character cells."""
        await self._call(calls.resize_pty(self._ref(task), width, height, exec_id))

    async def checkpoint(
        self,
        task: _Task,
        options: CheckpointOptions = _USUAL,
        on_progress: Report | None = None,
    ) -> CheckpointResult:
        """Freeze a task, save it, and let it run on or end. All or nothing.

        Leaving early (cancellation, an error in `on_progress`) rolls back, and waits for that.
        """
        return await self._stream(calls.checkpoint(self._ref(task), options), on_progress)

    async def restore(
        self, task: _Task, options: RestoreOptions, on_progress: Report | None = None
    ) -> RestoreResult:
        """Bring an image back as a new running task. All or nothing.

        Leaving early (cancellation, an error in `on_progress`) rolls back, and waits for that.
        """
        return await self._stream(calls.restore(self._ref(task), options), on_progress)

    async def verify(
        self,
        image_path: str,
        mode: Verify = Verify.FULL,
        on_progress: Report | None = None,
        *,
        untrusted_folder: bool = False,
    ) -> dict[str, Any]:
        """Read an image against its seal and this host; return its manifest.

        With `untrusted_folder` it may lie where another user can change it.
        """
        call = calls.verify(image_path, mode, untrusted_folder=untrusted_folder)
        return await self._stream(call, on_progress)

    async def images(self) -> list[ImageView]:
        """List the images below the sidecar's folder, newest first."""
        return await self._call(calls.images())

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest."""
        return await self._call(calls.inspect(image_path))

    async def remove(self, image_path: str) -> None:
        """Delete an image below the sidecar's folder."""
        await self._call(calls.remove(image_path))

    async def info(self) -> dict[str, str]:
        """Describe the host: runsc, engines, driver, tool, versions."""
        return await self._call(calls.info())

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str = "") -> list[TaskView]:
        """List a namespace's tasks, by id; without a name, the client's own."""
        return await self._call(calls.list_(namespace or self.namespace))

    def _ref(self, task: _Task) -> TaskRef:
        return channel.ref_of(task, self.namespace)

    async def _call(self, call: Call[_Value]) -> _Value:
        method = self._channel.unary_unary(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.response.FromString,
        )
        try:
            answer = await method(
                call.request,
                timeout=channel.deadline_of(call, self._timeout_s),
                metadata=channel.metadata_of(call),
            )
        except grpc.aio.AioRpcError as error:
            raise channel.failure(error, self.address) from error
        return call.read(answer)

    async def _stream(self, stream: Stream[_Value], report: Report | None) -> _Value:
        method = self._channel.unary_stream(
            stream.path,
            request_serializer=type(stream.request).SerializeToString,
            response_deserializer=stream.response.FromString,
        )
        rpc = method(stream.request)
        try:
            return await self._follow(stream, rpc, report)
        except grpc.aio.AioRpcError as error:
            raise channel.failure(error, self.address) from error
        except BaseException:
            # A second cancellation stops the waiting, not the rollback.
            await asyncio.shield(self._roll_back(stream, report))
            raise
        finally:
            rpc.cancel()

    async def _follow(
        self, stream: Stream[_Value], rpc: AsyncIterable[Any], report: Report | None
    ) -> _Value:
        result = None
        async for update in rpc:
            if update.WhichOneof("update") == "progress":
                channel.tell(report, update.progress)
            else:
                result = update
        if result is None:
            raise channel.no_result(stream.what)
        return stream.read(result)

    async def _roll_back(self, stream: Stream[Any], report: Report | None) -> None:
        if not stream.token:
            return
        channel.tell_rollback(report, f"cancelling the {stream.what}")
        try:
            answer = await self._call(calls.cancel(stream.token, channel.ROLLBACK_S))
        except CryoError as error:
            channel.tell_rollback(report, f"cannot tell whether it was rolled back: {error}")
        else:
            channel.tell_rollback(report, channel.outcome_of(stream.what, answer))
