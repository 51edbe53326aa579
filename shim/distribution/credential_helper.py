"""Runs a credential helper, docker-credential-NAME, as Docker does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile

import msgspec

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from shim.host.oserror import typed
from shim.model import Value

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_BYTES = 1 << 20
_PREFIX = "docker-credential-"
# What every helper prints, on its standard output, if it has none.
_NONE = b"credentials not found"


class Answer(Value, rename="pascal"):
    """What a helper has for a registry."""

    secret: str
    username: str = ""

    def __repr__(self) -> str:
        """Return no secret."""
        return "Answer()"


def ask(name: str, host: str, timeout_s: float) -> Answer | None:
    """Return the credentials that a helper has for a registry, None if it has none.

    Raises:
        DeadlineExceeded: it does not end.
        FailedPrecondition: it fails; its output, which may have secrets, is in no error.
        NotFound: there is no such program.
    """
    if not _NAME.fullmatch(name):
        message = f"{name[:100]!r} is not the name of a credential helper"
        raise InvalidArgument(message)
    program = _PREFIX + name
    remedy = f"run `echo {host} | {program} get` to see why, or use `docker login {host}`"
    status, output = _run(program, host, timeout_s, remedy)
    if status == 0:
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            return msgspec.json.decode(output, type=Answer)
        message = f"{program} did not print credentials"
    elif _NONE in output:
        return None
    else:
        message = f"{program} failed with status {status}"
    raise FailedPrecondition(message, remedy=remedy)


def _run(program: str, host: str, timeout_s: float, remedy: str) -> tuple[int, bytes]:
    """Run a helper; files in place of pipes, which a descendant could keep open."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(host.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                [program, "get"],
                stdin=given,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            message = f"there is no credential helper {program} on PATH"
            raise NotFound(message, remedy=f"install it, or use `docker login {host}`") from error
        except OSError as error:
            raise typed(error, f"run {program}") from error
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            message = f"{program} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message, remedy=remedy) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read(_MAX_BYTES)
