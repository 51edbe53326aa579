"""The stand-in for NVIDIA's cuda-checkpoint: its command line, states, messages and exit codes.

A separate program that runs several times per process and operation. Most of its time is the
interpreter's start, so it imports as little as possible. DRIVER is set when it is installed.
"""

from __future__ import annotations

import _socket  # `socket` takes as long to import as everything else here
import os
import sys
import time

DRIVER = 570

_RUN_DIR = "/tmp/.simgpu"  # noqa: S108  # the guest's private tmpfs; also in `names.py`
_DEVICE_SOCKET = "/dev/simgpu/device/device.sock"
_FOREVER = 1e9
_NO_CUDA = "initialization error"

_USAGE = """\
CUDA checkpoint and restore utility (simulated GPU, driver {driver}).
Options:
  --help|-h                             this text
  --toggle --pid|-p PID                 suspend a running process or resume a suspended one
"""
_USAGE_555 = """\
  --get-state --pid|-p PID              running, locked, checkpointed or failed
  --get-restore-tid --pid|-p PID        the thread that restores
  --action|-a lock|checkpoint|restore|unlock --pid|-p PID
"""
_USAGE_570 = "  --timeout|-t MS                       give up locking after that long\n"
_USAGE_580 = "  --device-map|-d OLD=NEW,...           restore on other GPUs, by UUID\n"

_SINCE = {"--action": 555, "--get-state": 555, "--get-restore-tid": 555}
_SINCE |= {"--timeout": 570, "--device-map": 580}
_SHORT = {"-h": "--help", "-p": "--pid", "-a": "--action", "-t": "--timeout", "-d": "--device-map"}
_WITH_VALUE = ("--pid", "--action", "--timeout", "--device-map")
_BARE = ("--help", "--toggle", "--get-state", "--get-restore-tid")
_VERBS = {
    "lock": "lock",
    "checkpoint": "checkpoint",
    "restore": "restore",
    "unlock": "unlock",
    "get-state": "get state",
    "get-restore-tid": "get restore thread",
}


class Failure(Exception):
    """An action failed; the argument is CUDA's error text."""


class Usage(Exception):
    """The command line is wrong."""


def usage() -> str:
    """Return the help of this driver's tool."""
    text = _USAGE.format(driver=DRIVER)
    for since, more in ((555, _USAGE_555), (570, _USAGE_570), (580, _USAGE_580)):
        text += more if since <= DRIVER else ""
    return text


def parse(argv: list[str]) -> dict[str, str]:
    """Read the command line.

    Raises:
        Usage: an option is unknown, missing in this driver, or has no value.
    """
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name = rest.pop(0)
        name = _SHORT.get(name, name)
        if name not in _WITH_VALUE + _BARE or _SINCE.get(name, 0) > DRIVER:
            raise Usage(f"unrecognized option '{name}'")  # noqa: EM102  # keep it small
        if name in _WITH_VALUE and not rest:
            raise Usage(f"option '{name}' requires an argument")  # noqa: EM102  # as above
        options[name] = rest.pop(0) if name in _WITH_VALUE else ""
    return options


def _all(connection: _socket.socket) -> bytes:
    data = b""
    while len(data) < 1 << 16:
        piece = connection.recv(4096)
        if not piece:
            break
        data += piece
    return data


def ask_driver(pid: int, request: str) -> str:
    """Send a request to the driver thread of a process and return its reply.

    Raises:
        Failure: the request was rejected, or the process does not use CUDA.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(f"{_RUN_DIR}/cuda.{pid}")
        connection.sendall(request.encode() + b"\n")
        answer = _all(connection).decode()
    except OSError:
        raise Failure(_NO_CUDA) from None
    finally:
        connection.close()
    kind, _, text = answer.rstrip("\n").partition(" ")
    if kind == "ok":
        return text
    raise Failure(text or "unspecified launch failure")


def fault_for(action: str, pid: int, via: str) -> list[str]:
    """Ask the device for the fault to inject: [kind, seconds, message], or [] for none."""
    if os.environ.get("CRYO_SIMGPU_FAULTS") == "none":  # names.FAULTS
        return []
    header = f'{{"op":"tool","action":"{action}","pid":{pid},"via":"{via}"}}'
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(_DEVICE_SOCKET)
        connection.sendall(len(header).to_bytes(4, "big") + header.encode())
        length = int.from_bytes(exactly(connection, 4), "big")
        answer = exactly(connection, length)
        size = int(answer.rpartition(b":")[2].rstrip(b"} "))
        return exactly(connection, size).decode().split(" ", 2) if size else []
    except (OSError, ValueError):
        return []  # no device: no fault
    finally:
        connection.close()


def exactly(connection: _socket.socket, size: int) -> bytes:
    """Read so many bytes.

    Raises:
        OSError: the peer closed the connection.
    """
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise OSError
        data += piece
    return data


def _request(action: str, options: dict[str, str]) -> str:
    """Return the request to the driver thread."""
    request = {"get-state": "state", "get-restore-tid": "tid"}.get(action, action)
    if action == "lock":
        request += " timeout=" + options.get("--timeout", "0")
    if action == "restore" and "--device-map" in options:
        request += " map=" + options["--device-map"]
    return request


def step(action: str, pid: int, options: dict[str, str], via: str = "") -> str:
    """Perform one action, with the fault that is due, if any.

    Raises:
        Failure: it failed.
    """
    kind, seconds, message = fault_for(action, pid, via) or ("", "0", "")
    if kind in ("hang", "fail"):
        _suffer(kind, float(seconds), message)
    if kind == "wrong_state":
        return ""
    if kind == "slow":
        time.sleep(float(seconds))
    if kind == "die":
        os.kill(pid, 9)
    extra = f" {kind}={seconds}" if kind in ("oom", "busy") else ""
    answer = ask_driver(pid, _request(action, options) + extra)
    if kind in ("hang_after", "fail_after"):
        _suffer(kind, float(seconds), message)
    return answer


def _suffer(kind: str, seconds: float, message: str) -> None:
    if kind.startswith("hang"):
        time.sleep(seconds or _FOREVER)
    raise Failure(message)


def toggle(pid: int) -> None:
    """Suspend a running process or resume a checkpointed one.

    Raises:
        Failure: one of its actions failed.
    """
    state = ask_driver(pid, "state")
    pairs = {"running": ("lock", "checkpoint"), "checkpointed": ("restore", "unlock")}
    if state not in pairs:
        raise Failure("the operation cannot be performed in the present state")  # noqa: EM101  # CUDA's
    for action in pairs[state]:
        step(action, pid, {}, "toggle")


def run(options: dict[str, str]) -> int:
    """Execute the command line; return the exit status.

    Raises:
        Usage: there is no action, or no pid.
    """
    if "--help" in options:
        sys.stdout.write(usage())
        return 0
    pid = int(options["--pid"]) if options.get("--pid", "").isdigit() else 0
    if not pid:
        raise Usage("a --pid is needed")  # noqa: EM101  # keep it small
    if "--toggle" in options:
        try:
            toggle(pid)
        except Failure as error:
            sys.stderr.write(f'Error toggling CUDA in process ID {pid}: "{error}"\n')
            return 1
        return 0
    asked = [o[2:] for o in ("--get-state", "--get-restore-tid") if o in options]
    action = asked[0] if asked else options.get("--action", "")
    if action not in _VERBS or (action.startswith("get-") and not asked):
        raise Usage("an action is needed")  # noqa: EM101  # keep it small
    try:
        text = step(action, pid, options)
    except Failure as error:
        sys.stderr.write(f'Could not {_VERBS[action]} on process ID {pid}: "{error}"\n')
        return 1
    if action.startswith("get-"):
        sys.stdout.write(text + "\n")
    return 0


def main() -> int:
    """Run as cuda-checkpoint."""
    try:
        return run(parse(sys.argv[1:]))
    except Usage as error:
        sys.stderr.write(f"cuda-checkpoint: {error}\n{usage()}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
