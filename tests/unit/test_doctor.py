"""`cryo doctor`: checks that fail, exit codes, the form of its JSON, and its documents."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from shim.doctor import examination, report
from shim.doctor.disk import RealDisk
from shim.doctor.examination import Check
from shim.doctor.features import PROBES
from shim.doctor.host import Host
from shim.doctor.report import EXIT_CODES, Report
from shim.entry.cli import doctor, exits
from shim.entry.cli.app import main
from shim.errors import NotFound
from shim.finding import Area, Finding, Level, Topic
from tests.unit.fakes_doctor import Machine
from tests.unit.test_docs import read, rows

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "doctor.md"
GPU = Topic(Area.GPU, "x")
DISK = Topic(Area.STORAGE, "x")


async def crash(host: Host) -> Iterable[Finding]:
    """Fail as a bug does."""
    raise ZeroDivisionError("a bug")


async def fail(host: Host) -> Iterable[Finding]:
    """Fail as something on the host does."""
    raise NotFound("it is gone", remedy="bring it back")


async def hang(host: Host) -> Iterable[Finding]:
    """Never end."""
    await asyncio.Event().wait()
    return ()


async def pass_(host: Host) -> Iterable[Finding]:
    """Find that all is well."""
    return [GPU.ok("well")]


async def test_a_check_that_fails_is_a_finding(tmp_path: Path) -> None:
    """A bug, an error and a hang are findings of their own class, and the others go on."""
    machine = Machine(tmp_path / "m")
    checks = [Check(work.__name__, work, 0.2) for work in (crash, fail, hang, pass_)]

    found = await examination.examine(machine.host, checks)

    machine.close()
    assert [(one.subject, one.area, one.level) for one in found] == [
        ("crash", Area.CHECK, Level.FAILURE),
        ("fail", Area.CHECK, Level.FAILURE),
        ("hang", Area.CHECK, Level.FAILURE),
        ("x", Area.GPU, Level.OK),
    ]
    assert "ZeroDivisionError: a bug" in found[0].text
    assert (found[1].text, found[1].remedy) == ("it is gone", "bring it back")
    assert "0.2 s" in found[2].text


@pytest.mark.parametrize(
    ("findings", "code", "level"),
    (
        ([], 0, Level.OK),
        ([GPU.ok("a")], 0, Level.OK),
        ([GPU.warning("a", "b")], 0, Level.WARNING),
        ([GPU.failure("a", "b")], 23, Level.FAILURE),
        ([DISK.failure("a", "b"), GPU.warning("a", "b")], 25, Level.FAILURE),
        ([DISK.failure("a", "b"), GPU.failure("a", "b")], 23, Level.FAILURE),
    ),
)
def test_the_exit_code_is_of_the_first_class(
    findings: list[Finding], code: int, level: Level
) -> None:
    """Warnings do not change it; of several classes the one to correct first counts."""
    found = report.report(findings, 0.5)

    assert (found.exit_code, found.level) == (code, level)


def test_each_class_has_its_own_code() -> None:
    """No two are equal, none is one of an error, and they follow the order of the classes."""
    codes = [EXIT_CODES[area] for area in Area]

    assert codes == sorted(set(codes))
    assert not set(codes) & {*exits.CODES.values(), exits.USAGE, exits.INTERRUPTED}


def test_the_documents_list_the_codes() -> None:
    """docs/doctor.md and the command's module have every code."""
    listed = rows(read(DOCUMENT), "| exit code | class | what failed |")[1:]
    shown = {cells[1].strip("`"): int(cells[0]) for cells in listed if cells[1]}
    lines = re.findall(r"^    (\d+) +\S", doctor.__doc__ or "", re.MULTILINE)

    assert shown == {area.value: code for area, code in EXIT_CODES.items()}
    assert sorted(map(int, lines)) == [0, *EXIT_CODES.values()]


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as caught:
        main([*words])
    out, err = capfd.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def write_settings(machine: Machine) -> str:
    """Write the machine's settings into a config.toml."""
    config = machine.config
    lines = [
        "[paths]",
        *(f'{name} = "{machine.root}/{name}"' for name in ("images", "state", "scratch")),
        f'[runsc]\nbinary = "{config.runsc.binary}"',
        f'[cuda]\nnvidia_proc = "{config.cuda.nvidia_proc}"\nnvidia_smi = "/bin/false"',
    ]
    return str(machine.write("config.toml", "\n".join(lines)))


def test_json_has_the_documented_form(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It decodes strictly, and its code is the status of the program."""
    machine = Machine(tmp_path / "m")
    words = ["doctor", "--config", write_settings(machine)]

    code, out, err = run(capfd, "--output", "json", *words)
    _, table, _ = run(capfd, *words)

    machine.close()
    found = msgspec.json.decode(out, type=Report, strict=True)
    assert (found.exit_code, err) == (code, "")
    assert [one for one in found.findings if one.area is Area.CHECK] == []
    assert all(one.remedy for one in found.findings if one.level is not Level.OK)
    assert table.splitlines()[0].split() == ["LEVEL", "CLASS", "SUBJECT", "FINDING"]
    assert len(table.splitlines()) == len(found.findings) + 1


def test_unreadable_settings_are_a_finding(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other checks run with the defaults, and nothing is repaired."""
    path = tmp_path / "config.toml"
    path.write_text("[paths]\nstat = 1\n")

    code, out, _ = run(capfd, "--output", "json", "doctor", "--repair", "--config", str(path))

    found = msgspec.json.decode(out, type=Report)
    assert code == EXIT_CODES[Area.SETTINGS]
    assert "stat" in found.findings[0].text
    assert len({one.area for one in found.findings}) > 3


def test_this_host_is_measured(tmp_path: Path) -> None:
    """The real probes and the real disk give an answer."""
    assert PROBES["pidfd"]()
    assert PROBES["memfd"]()
    disk = RealDisk()

    assert disk.space(tmp_path).bytes > 0
    assert disk.write(tmp_path).bytes_per_s > 0
    with pytest.raises(NotFound):
        disk.write(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
