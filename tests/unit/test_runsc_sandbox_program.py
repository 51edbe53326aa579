"""Whether a sandbox runs the runsc in use: the same file, a copy of it, or another one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced

from shim.errors import CryoError, Refused
from shim.host import procs
from shim.host.process_id import ProcessId
from shim.runsc import sandbox_program
from shim.runsc.probe import Capabilities, identity
from tests.unit.fakes_help import answering
from tests.unit.fakes_runsc import capabilities

Run = Callable[[Path], ProcessId]
_SLEEP = Path("/bin/sleep")


@pytest.fixture
def run() -> Iterator[Run]:
    """Return what starts a copy of sleep at a path, as runsc starts itself as a sandbox."""
    with ExitStack() as stack:

        def start(path: Path) -> ProcessId:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_SLEEP.resolve(), path)
            process = stack.enter_context(subprocess.Popen([path, "1000"]))
            stack.callback(process.kill)
            return ProcessId(process.pid, procs.start_time(process.pid) or 0)

        yield start


def able(path: Path) -> Capabilities:
    """Return what was probed of a file; no program is started for it."""
    return replaced(capabilities(path), identity=identity(str(path)))


def replace(path: Path, content: bytes) -> None:
    """Put another file in its place, as a package does."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.chmod(0o755)
    new.replace(path)


def no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where files are compared."""

    async def file_call(*_: object, **__: object) -> None:
        pytest.fail("files were read")

    monkeypatch.setattr(sandbox_program, "file_call", file_call)


async def test_the_same_file_is_not_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was replaced, two looks at the files suffice."""
    path = tmp_path / "runsc"
    sandbox = run(path)
    no_reads(monkeypatch)

    found = able(path)
    assert await sandbox_program.current(found, "job") is found
    await sandbox_program.check(sandbox, found, "job")


async def test_a_copy_of_the_file(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was installed again is the same runsc; a second look compares nothing."""
    path = tmp_path / "runsc"
    sandbox = run(path)
    replace(path, _SLEEP.read_bytes())

    await sandbox_program.check(sandbox, able(path), "job")

    monkeypatch.setattr(sandbox_program, "_PIECE_BYTES", "not to be read")
    await sandbox_program.check(sandbox, able(path), "job")


@pytest.mark.parametrize("size", ("same", "another"))
async def test_another_file(tmp_path: Path, run: Run, size: str) -> None:
    """It is refused, also if it has the same size."""
    path = tmp_path / "runsc"
    sandbox = run(path)
    content = bytearray(_SLEEP.read_bytes())
    content[-1] ^= 1
    replace(path, bytes(content if size == "same" else content[:-1]))

    with pytest.raises(Refused, match=f"^{path} was replaced: .* task job runs ") as caught:
        await sandbox_program.check(sandbox, able(path), "job")
    assert "put the runsc that created it back" in caught.value.remedy


async def test_the_sentry_of_a_release(tmp_path: Path, run: Run) -> None:
    """Where the sentry has a file of its own, that one is compared."""
    path, sentry = tmp_path / "runsc", tmp_path / "gvisor-bin" / "gvisor_sentry"
    path.write_bytes(b"another program")
    sandbox = run(sentry)

    await sandbox_program.check(sandbox, able(path), "job")

    replace(sentry, b"the next release")
    with pytest.raises(Refused):
        await sandbox_program.check(sandbox, able(path), "job")
    shutil.rmtree(sentry.parent)
    with pytest.raises(Refused):
        await sandbox_program.check(sandbox, able(path), "job")


async def test_a_script_that_starts_runsc(tmp_path: Path, run: Run) -> None:
    """What it starts is compared with what is in that place by now."""
    script, path = tmp_path / "wrapper", tmp_path / "runsc"
    script.write_text(f'#!/bin/sh\nexec {path} --debug "$@"\n')
    sandbox = run(path)

    await sandbox_program.check(sandbox, able(script), "job")

    replace(path, _SLEEP.read_bytes())
    await sandbox_program.check(sandbox, able(script), "job")
    replace(path, b"the next one")
    with pytest.raises(Refused, match=f"^{path} was replaced"):
        await sandbox_program.check(sandbox, able(script), "job")


async def test_a_sandbox_that_has_exited(tmp_path: Path, run: Run) -> None:
    """That is for others to report."""
    path = tmp_path / "runsc"
    sandbox = run(path)
    replace(path, b"another")

    await sandbox_program.check(ProcessId(sandbox.pid, sandbox.start + 1), able(path), "job")


async def test_a_file_that_was_replaced_is_probed(tmp_path: Path) -> None:
    """What the old one could do is not believed of the new one; a file that is gone is an error."""
    runsc = answering(tmp_path, new=False)
    before = able(runsc.path)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    answering(fresh, new=True).path.replace(runsc.path)

    assert (await sandbox_program.current(before, "job")).builtin_cuda

    runsc.path.unlink()
    with pytest.raises(CryoError, match="is gone") as caught:
        await sandbox_program.current(before, "job")
    assert caught.value.remedy
