"""A blocking client of a sidecar, which threads may share.

Generated from the operations in shim/service by `make protos`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shim.client.transport import Transport
from shim.distribution.settings import TransferSettings
from shim.model import CheckpointOptions, Stdio, Verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from shim import model
    from shim.distribution.image_diff import ImageDiff
    from shim.distribution.transfer import Transferred
    from shim.finding import Finding
    from shim.image.eviction import Pruned
    from shim.image.name_view import NameView
    from shim.model import (
        CheckpointResult,
        CloneResult,
        EventView,
        Exit,
        ImageView,
        KeyFile,
        Mount,
        ProcessList,
        ProcessView,
        Report,
        RestoreOptions,
        RestoreResult,
        Speeds,
        TaskRef,
        TaskView,
        Timeline,
    )


class Client(Transport):
    """A blocking client of a sidecar, which threads may share."""

    def create(
        self,
        task: str | TaskRef,
        bundle: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = Stdio(),
        checkpoint: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> int:
        """Create a task from a bundle; with `checkpoint`, `start` restores that image.

        `annotations` are added to those of the bundle's config.json.

        Returns the pid of the sandbox on the host, 0 before a restore.
        """
        from shim.service import task_operations

        return self._call(
            task_operations.create(
                self._ref(task),
                bundle,
                rootfs=rootfs,
                stdio=stdio,
                checkpoint=checkpoint,
                annotations=annotations,
            )
        )

    def start(self, task: str | TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec; return its pid."""
        from shim.service import task_operations

        return self._call(task_operations.start(self._ref(task), exec_id))

    def state(self, task: str | TaskRef, exec_id: str = "") -> ProcessView:
        """Describe the init process or an exec."""
        from shim.service import task_operations

        return self._call(task_operations.state(self._ref(task), exec_id))

    def wait(self, task: str | TaskRef, exec_id: str = "") -> Exit:
        """Wait until a process exits; return at once if it has already exited."""
        from shim.service import task_operations

        return self._call(task_operations.wait(self._ref(task), exec_id))

    def kill(
        self, task: str | TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal to one process, or to every process of the task."""
        from shim.service import task_operations

        self._call(
            task_operations.kill(self._ref(task), signal, exec_id=exec_id, everyone=everyone)
        )

    def exec(
        self, task: str | TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio = Stdio()
    ) -> None:
        """Add a process (an OCI `process` object) to a running task; `start` runs it."""
        from shim.service import task_operations

        self._call(task_operations.exec_(self._ref(task), exec_id, process, stdio))

    def delete(self, task: str | TaskRef, exec_id: str = "") -> ProcessView:
        """Delete a process that has exited; return its last state."""
        from shim.service import task_operations

        return self._call(task_operations.delete(self._ref(task), exec_id))

    def pids(self, task: str | TaskRef) -> list[int]:
        """List the processes of a task, by their pids in the container."""
        from shim.service import task_operations

        return self._call(task_operations.pids(self._ref(task)))

    def pause(self, task: str | TaskRef) -> None:
        """Pause all processes of a task."""
        from shim.service import task_operations

        self._call(task_operations.pause(self._ref(task)))

    def resume(self, task: str | TaskRef) -> None:
        """Resume a paused task."""
        from shim.service import task_operations

        self._call(task_operations.resume(self._ref(task)))

    def update(self, task: str | TaskRef, resources: Mapping[str, Any]) -> None:
        """Set resource limits (an OCI LinuxResources object)."""
        from shim.service import task_operations

        self._call(task_operations.update(self._ref(task), resources))

    def stats(self, task: str | TaskRef) -> model.Stats:
        """Measure the CPU, memory and process counts of a task."""
        from shim.service import task_operations

        return self._call(task_operations.stats(self._ref(task)))

    def close_io(self, task: str | TaskRef, exec_id: str = "") -> None:
        """Close the stdin of a process."""
        from shim.service import task_operations

        self._call(task_operations.close_io(self._ref(task), exec_id))

    def resize_pty(self, task: str | TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of the terminal of a process, in character cells."""
        from shim.service import task_operations

        self._call(task_operations.resize_pty(self._ref(task), width, height, exec_id))

    def namespaces(self) -> list[str]:
        """List the namespaces that have tasks."""
        from shim.service import cryo_operations

        return self._call(cryo_operations.namespaces())

    def processes(self, task: str | TaskRef) -> ProcessList:
        """List the processes of a task: what runs, as which user, and with which GPU state.

        The CUDA states of a running task are asked for in the container, which takes a tenth of a
        second or more.
        """
        from shim.service import cryo_operations

        return self._call(cryo_operations.processes(self._ref(task)))

    def checkpoint(
        self,
        task: str | TaskRef,
        options: CheckpointOptions = CheckpointOptions(),
        on_progress: Report | None = None,
    ) -> CheckpointResult:
        """Freeze a task, save it to an image, and resume or stop it. All or nothing.

        If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
        """
        from shim.service import cryo_operations

        return self._stream(cryo_operations.checkpoint(self._ref(task), options), on_progress)

    def restore(
        self, task: str | TaskRef, options: RestoreOptions, on_progress: Report | None = None
    ) -> RestoreResult:
        """Restore an image as a new running task. All or nothing.

        If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
        """
        from shim.service import cryo_operations

        return self._stream(cryo_operations.restore(self._ref(task), options), on_progress)

    def save_name(
        self, task: str | TaskRef, name: str, on_progress: Report | None = None
    ) -> CheckpointResult:
        """Save a task under a name, for restores of containers like it; it keeps running.

        If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
        """
        from shim.service import cryo_operations

        return self._stream(cryo_operations.save_name(self._ref(task), name), on_progress)

    def info(self) -> dict[str, str]:
        """Describe the host: runsc, engines, driver, tool and versions."""
        from shim.service import cryo_operations

        return self._call(cryo_operations.info())

    def clone(
        self,
        clones: Mapping[str, RestoreOptions],
        namespace: str = "",
        on_progress: Report | None = None,
        *,
        at_once: int = 0,
    ) -> list[CloneResult]:
        """Restore one image as several tasks, given by their ids, at most `at_once` at a time.

        The image is verified once. Each clone is complete or rolled back by itself, and its error
        is in its result. If interrupted (Ctrl-C, an error in `on_progress`), those that are not
        complete are rolled back before it returns.
        """
        from shim.service import clone_operations

        return self._stream(
            clone_operations.clone(clones, namespace or self.namespace, at_once=at_once),
            on_progress,
        )

    def follow(
        self, task: str = "", namespace: str = "", *, everywhere: bool = False
    ) -> Iterator[EventView]:
        """Yield what happens from now on: in a namespace or `everywhere`, of all tasks or of one.

        The first is of the kind `following`: what happens after it is yielded. Its field
        `containerd` says whether events of containerd's tasks are among them; it is yielded again
        when that changes.

        Raises:
            ResourceExhausted: events happen faster than they are read.
        """
        from shim.service import event_operations

        return self._feed(
            event_operations.follow(task, namespace or self.namespace, everywhere=everywhere)
        )

    def examine(self, task: str | TaskRef) -> list[Finding]:
        """Examine whether a task can be checkpointed now, and what its image would lack.

        Each finding that is not well has its remedy. Nothing is changed or frozen.
        """
        from shim.service import examine_operations

        return self._call(examine_operations.examine(self._ref(task)))

    def images(self) -> list[ImageView]:
        """List the images below the sidecar's image directory, newest first."""
        from shim.service import image_operations

        return self._call(image_operations.images())

    def inspect(self, image: str, namespace: str = "") -> dict[str, Any]:
        """Return the manifest of an image, given its absolute path or its name."""
        from shim.service import image_operations

        return self._call(image_operations.inspect(image, namespace or self.namespace))

    def verify(
        self,
        image: str,
        mode: Verify = Verify.FULL,
        on_progress: Report | None = None,
        *,
        namespace: str = "",
        untrusted_folder: bool = False,
        keys: Sequence[KeyFile] = (),
    ) -> dict[str, Any]:
        """Check an image, given its absolute path or its name; return its manifest.

        It is compared with its seal and with this host. `untrusted_folder` accepts an image in a
        directory that another user can change. One of `keys`, if given, must have signed the image.
        """
        from shim.service import image_operations

        return self._stream(
            image_operations.verify(
                image,
                mode,
                namespace=namespace or self.namespace,
                untrusted_folder=untrusted_folder,
                keys=keys,
            ),
            on_progress,
        )

    def remove(self, image: str, namespace: str = "") -> bool:
        """Delete an image below the sidecar's image directory, given its path or its name.

        Returns whether the image was deleted: one that has other names loses only the given name.
        """
        from shim.service import image_operations

        return self._call(image_operations.remove(image, namespace or self.namespace))

    def names(self, namespace: str = "") -> list[NameView]:
        """List the names of images in a namespace; the default is the client's namespace."""
        from shim.service import image_operations

        return self._call(image_operations.names(namespace or self.namespace))

    def show_name(
        self, name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
    ) -> NameView:
        """Describe a name: its images, what their fingerprints were computed from, and its use."""
        from shim.service import image_operations

        return self._call(
            image_operations.show_name(
                name, namespace or self.namespace, kubernetes_namespace=kubernetes_namespace
            )
        )

    def drop_name(
        self, name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
    ) -> int:
        """Delete the images and the counters of a name; return how many images there were."""
        from shim.service import image_operations

        return self._call(
            image_operations.drop_name(
                name, namespace or self.namespace, kubernetes_namespace=kubernetes_namespace
            )
        )

    def tag(self, image: str, name: str, namespace: str = "", *, ttl_s: float = 0.0) -> str:
        """Give an image a name, NAME or NAME:TAG, which any other image loses; return its path.

        The image is given by its absolute path or another name. If `ttl_s` is not 0, the image
        may be removed that long from now.
        """
        from shim.service import store_operations

        return self._call(
            store_operations.tag(image, name, namespace or self.namespace, ttl_s=ttl_s)
        )

    def untag(self, image: str, name: str, namespace: str = "") -> str:
        """Take a name from an image, which stays; return its path."""
        from shim.service import store_operations

        return self._call(store_operations.untag(image, name, namespace or self.namespace))

    def pin(self, image: str, namespace: str = "") -> str:
        """Keep an image, given by its path or its name, from being removed; return its path."""
        from shim.service import store_operations

        return self._call(store_operations.pin(image, namespace or self.namespace))

    def unpin(self, image: str, namespace: str = "") -> str:
        """Let an image be removed again; return its path."""
        from shim.service import store_operations

        return self._call(store_operations.unpin(image, namespace or self.namespace))

    def prune(
        self,
        *,
        dry_run: bool = False,
        keep_last: int | None = None,
        older_than_s: float | None = None,
        quota_bytes: int | None = None,
    ) -> Pruned:
        """Remove the images that the sidecar's configuration, with these changes, does not keep.

        With `dry_run` nothing is removed, and the result has what would be.
        """
        from shim.service import store_operations

        return self._call(
            store_operations.prune(
                dry_run=dry_run,
                keep_last=keep_last,
                older_than_s=older_than_s,
                quota_bytes=quota_bytes,
            )
        )

    def timelines(self, task: str | TaskRef) -> list[Timeline]:
        """Return where the time of the last operations on a task went, oldest first.

        A checkpoint of a pod is an operation on its sandbox, and on each of its containers.
        """
        from shim.service import timeline_operations

        return self._call(timeline_operations.timelines(self._ref(task)))

    def image_timeline(self, image: str, namespace: str = "") -> Timeline:
        """Return where the time of an image's checkpoint went, given its path or its name."""
        from shim.service import timeline_operations

        return self._call(timeline_operations.image_timeline(image, namespace or self.namespace))

    def speeds(self, image_path: str = "") -> Speeds:
        """Measure disk and memory of the sidecar's host, which takes about a second.

        The disk is that of an image, or of the sidecar's folder of images.
        """
        from shim.service import timeline_operations

        return self._call(timeline_operations.speeds(image_path))

    def push(
        self,
        image: str,
        reference: str,
        settings: TransferSettings = TransferSettings(),
        namespace: str = "",
        on_progress: Report | None = None,
    ) -> Transferred:
        """Copy an image, given by its path or name, to a registry, bucket, OCI layout or archive.

        What is there already is not sent again. If interrupted (Ctrl-C, an error in `on_progress`),
        the reference is as it was.
        """
        from shim.service import transfer_operations

        return self._stream(
            transfer_operations.push(image, reference, settings, namespace or self.namespace),
            on_progress,
        )

    def pull(
        self,
        reference: str,
        settings: TransferSettings = TransferSettings(),
        namespace: str = "",
        on_progress: Report | None = None,
        *,
        name: str | None = None,
        warm: str | None = None,
        kubernetes_namespace: str | None = None,
    ) -> Transferred:
        """Copy an image from a registry, bucket, OCI layout or archive to the sidecar's images.

        It gets a name: `name`, or the last part of the reference and its tag. With `warm` it is
        instead an image for the warm starts of that name. If interrupted (Ctrl-C, an error in
        `on_progress`), no image is there, and the next pull continues.
        """
        from shim.service import transfer_operations

        return self._stream(
            transfer_operations.pull(
                reference,
                settings,
                namespace or self.namespace,
                name=name,
                warm=warm,
                kubernetes_namespace=kubernetes_namespace,
            ),
            on_progress,
        )

    def image_statement(self, image: str, namespace: str = "") -> bytes:
        """Return what is signed for an image, given its absolute path or its name."""
        from shim.service import trust_operations

        return self._call(trust_operations.image_statement(image, namespace or self.namespace))

    def add_signature(self, image: str, key: KeyFile, signature: bytes, namespace: str = "") -> int:
        """Add a signature to an image, given its absolute path or its name.

        `signature` is of the statement of the image, encoded as DSSE has it, by the private key of
        `key`. Returns how many signatures the image has.
        """
        from shim.service import trust_operations

        return self._call(
            trust_operations.add_signature(image, key, signature, namespace or self.namespace)
        )

    def diff(
        self, old: str, new: str, namespace: str = "", on_progress: Report | None = None
    ) -> ImageDiff:
        """Compare two images, given their absolute paths or their names."""
        from shim.service import trust_operations

        return self._stream(
            trust_operations.diff(old, new, namespace or self.namespace), on_progress
        )

    def list(self, namespace: str = "") -> list[TaskView]:
        """List the tasks of a namespace, by id; the default is the client's namespace."""
        from shim.service import cryo_operations

        return self._call(cryo_operations.list_(namespace or self.namespace))
