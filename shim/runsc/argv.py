"""Command lines of runsc, one pure function per subcommand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shim.model import Value

# runsc matches ids by prefix. '+' is legal in runsc's ids but not in task ids, so with this suffix
# no id is a prefix of another.
_END = "+"


def runsc_id(task_id: str) -> str:
    """Return runsc's id of a task."""
    return task_id + _END


class Global(Value):
    """The command line before the subcommand: the binary, root directory and top-level flags."""

    binary: str
    root: str
    flags: Mapping[str, str] = {}

    def with_flags(self, flags: Mapping[str, str]) -> Global:
        """Return the same with other flags."""
        return Global(binary=self.binary, root=self.root, flags=flags)

    def argv(self, command: str, *args: str, log: str = "") -> list[str]:
        """Join binary, top-level flags, subcommand and its arguments."""
        top = [f"--{name}={value}" for name, value in sorted(self.flags.items())]
        logging = [f"--log={log}", "--log-format=json"] if log else []
        return [self.binary, f"--root={self.root}", *top, *logging, command, *args]


class CreateArgs(Value):
    """`runsc create`."""

    id: str
    bundle: str
    pid_file: str
    console_socket: str = ""

    def args(self) -> list[str]:
        """Build the arguments after the subcommand."""
        return [
            f"--bundle={self.bundle}",
            f"--pid-file={self.pid_file}",
            *optional("console-socket", self.console_socket),
            runsc_id(self.id),
        ]


class RestoreArgs(Value):
    """`runsc restore`, always detached."""

    id: str
    bundle: str
    pid_file: str
    image_path: str
    console_socket: str = ""
    background: bool = False
    direct: bool = False

    def args(self) -> list[str]:
        """Build the arguments after the subcommand."""
        return [
            "--detach",
            f"--bundle={self.bundle}",
            f"--pid-file={self.pid_file}",
            f"--image-path={self.image_path}",
            *optional("console-socket", self.console_socket),
            *(["--background"] if self.background else []),
            *(["--direct"] if self.direct else []),
            runsc_id(self.id),
        ]


class CheckpointArgs(Value):
    """`runsc checkpoint`, always with --leave-running: without, a failure kills the workload."""

    id: str
    image_path: str
    compression: str = "none"
    direct: bool = False
    cuda_checkpoint_path: str = ""

    def args(self) -> list[str]:
        """Build the arguments after the subcommand."""
        return [
            "--leave-running",
            f"--image-path={self.image_path}",
            *optional("compression", self.compression),
            *(["--direct"] if self.direct else []),
            *optional("cuda-checkpoint-path", self.cuda_checkpoint_path),
            runsc_id(self.id),
        ]


class ExecArgs(Value):
    """`runsc exec`; `process` is a file with an OCI process object to run."""

    id: str
    argv: Sequence[str] = ()
    process: str = ""
    pid_file: str = ""
    internal_pid_file: str = ""
    console_socket: str = ""

    def args(self) -> list[str]:
        """Build the arguments after the subcommand."""
        return [
            *optional("process", self.process),
            *optional("pid-file", self.pid_file),
            *optional("internal-pid-file", self.internal_pid_file),
            *optional("console-socket", self.console_socket),
            runsc_id(self.id),
            *self.argv,
        ]


def optional(name: str, value: str) -> list[str]:
    """Return `--name=value`, or nothing when there is no value."""
    return [f"--{name}={value}"] if value else []


def start(task_id: str) -> list[str]:
    """Arguments of `runsc start`."""
    return [runsc_id(task_id)]


def kill(task_id: str, signal: int, *, everyone: bool = False, pid: int = 0) -> list[str]:
    """Arguments of `runsc kill`; `pid` is in the sandbox's root pid namespace."""
    return [
        *(["--all"] if everyone else []),
        *optional("pid", str(pid) if pid else ""),
        runsc_id(task_id),
        str(signal),
    ]


def delete(task_id: str) -> list[str]:
    """Arguments of a forced `runsc delete`."""
    return ["--force", runsc_id(task_id)]


def ps(task_id: str) -> list[str]:
    """Arguments of `runsc ps`, as a table with parents and names (json has only pids)."""
    return ["--format=table", runsc_id(task_id)]


def events(task_id: str) -> list[str]:
    """Arguments of one `runsc events` reading."""
    return ["--stats", runsc_id(task_id)]


def update(task_id: str, resources: str) -> list[str]:
    """Arguments of `runsc update` with LinuxResources in the file `resources`."""
    return [f"--resources={resources}", runsc_id(task_id)]


def wait_restore(task_id: str) -> list[str]:
    """Arguments of `runsc wait` for a restore's background work, CUDA toggles included."""
    return ["--restore", runsc_id(task_id)]


def simple(task_id: str) -> list[str]:
    """Arguments of pause, resume and state."""
    return [runsc_id(task_id)]
