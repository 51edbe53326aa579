"""What commands print with --output json has the form of docs/schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from hack import schemas
from shim.entry import recover
from shim.entry.cli.app import cryo, main
from shim.image import contents
from shim.model import CreateRequest, TaskRef
from tests.unit.image_helpers import sealed
from tests.wire import fakes
from tests.wire.conftest import Sidecar
from tests.wire.fakes import FakeTask

# How each is run; FOLDER is a directory of the test.
COMMANDS = {
    "checkpoints delete": "checkpoints delete /images/a",
    "checkpoints diff": "checkpoints diff /i /j",
    "checkpoints export": "checkpoints export /images/a FOLDER/new.tar",
    "checkpoints import": "checkpoints import FOLDER/a.tar",
    "checkpoints inspect": "checkpoints inspect /i",
    "checkpoints keygen": "checkpoints keygen FOLDER/key",
    "checkpoints ls": "checkpoints ls",
    "checkpoints ls IMAGE": "checkpoints ls /i",
    "checkpoints pin": "checkpoints pin /i",
    "checkpoints prune": "checkpoints prune",
    "checkpoints pull": "checkpoints pull registry.example.com/a:b",
    "checkpoints push": "checkpoints push /images/a registry.example.com/a:b",
    "checkpoints sign": "checkpoints sign --key FOLDER/key /i",
    "checkpoints tag": "checkpoints tag /i a:b",
    "checkpoints unpin": "checkpoints unpin /i",
    "checkpoints verify": "checkpoints verify /i",
    "doctor": "doctor a",
    "info": "info",
    "install containerd": "install containerd --dry-run --config FOLDER/c.toml --shim FOLDER/shim",
    "install docker": "install docker --dry-run --config FOLDER/d.json --shim FOLDER/shim",
    "run": "run -d --bundle /b new",
    "tasks checkpoint": "tasks checkpoint a",
    "tasks create": "tasks create --bundle /b new",
    "tasks delete": "tasks delete -f a",
    "tasks exec": "tasks exec -d a true",
    "tasks kill": "tasks kill a",
    "tasks ls": "tasks ls",
    "tasks metrics": "tasks metrics a",
    "tasks pause": "tasks pause a",
    "tasks ps": "tasks ps a",
    "tasks restore": "tasks restore --image-path /i new",
    "tasks restore --count": "tasks restore --image-path /i --count 2 --name-template new-{i}",
    "tasks resume": "tasks resume a",
    "tasks start": "tasks start a",
    "tasks wait": "tasks wait gone",
    "timeline": "timeline a",
    "uninstall containerd": "uninstall containerd --dry-run --config FOLDER/c.toml",
    "uninstall docker": "uninstall docker --dry-run --config FOLDER/d.json",
    "version": "version",
    "warm drop": "warm drop llama",
    "warm ls": "warm ls",
    "warm save": "warm save llama a",
    "warm show": "warm show llama",
}
# What has a test of its own, since it needs more than a fake service.
ELSEWHERE = {
    "events": "tests/wire/test_events.py",
    "recover": "test_the_form_of_a_recovery",
}


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    """List the commands of a group and of those below it, such as `tasks ls`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, f"{prefix}{name} ")
        else:
            yield prefix + name


def test_the_files_are_those_of_the_types() -> None:
    """docs/schemas is what `make schemas` writes."""
    assert schemas.main(["--check"]) == 0


def test_every_command_has_a_schema() -> None:
    """A command without one is listed with the reason."""
    listed = set(commands(cryo))

    def command_of(name: str) -> str:
        """Return the command without its arguments."""
        return next(one for one in listed if f"{name} ".startswith(f"{one} "))

    assert {command_of(name) for name in (*schemas.PRINTS, *schemas.WITHOUT)} == listed
    assert set(schemas.PRINTS) == {*COMMANDS, *ELSEWHERE}


@pytest.fixture
def folder(tmp_path: Path, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a directory with what the commands use, and the service with tasks and a manifest."""
    for name in ("a", "gone"):
        ref = TaskRef(namespace="default", id=name)
        sidecar.core.tasks[ref] = FakeTask(CreateRequest(ref=ref, bundle="/b"))
    sidecar.core.end(TaskRef(namespace="default", id="gone"), 3)
    image = sealed(tmp_path / "image")
    described = contents.described(image)
    plain: dict[str, Any] = json.loads(json.dumps({**described, "source": ""}))
    monkeypatch.setattr(fakes, "MANIFEST", plain)
    (tmp_path / "d.json").write_text("{}", "utf-8")
    (tmp_path / "c.toml").write_text("version = 2\n", "utf-8")
    (tmp_path / "shim").write_text("#!/bin/sh\n", "utf-8")
    (tmp_path / "shim").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_output_has_the_form_of_its_schema(
    name: str, folder: Path, sidecar: Sidecar, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each document decodes as the type of its schema, and has no field that is not in it."""
    if name == "checkpoints sign":
        run("checkpoints", "keygen", f"{folder}/key")
        capfd.readouterr()
    run(
        "-a",
        sidecar.address,
        "--output",
        "json",
        *COMMANDS[name].replace("FOLDER", str(folder)).split(),
    )
    out, err = capfd.readouterr()

    assert out, err
    printed = json.loads(out)
    decoded = msgspec.convert(printed, schemas.PRINTS[name])
    assert list(undocumented(printed, msgspec.to_builtins(decoded))) == []


def test_the_form_of_a_recovery(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is a list of sentences."""
    monkeypatch.setattr(recover, "run", lambda _: ["task a: rolled back"])
    run("--output", "json", "recover")

    printed = json.loads(capfd.readouterr().out)
    assert msgspec.convert(printed, schemas.PRINTS["recover"]) == ["task a: rolled back"]


def run(*argv: str) -> None:
    """Run the command line in this process."""
    with pytest.raises(SystemExit):
        main([*argv])


def undocumented(printed: Any, decoded: Any, path: str = "") -> Iterator[str]:
    """Name the fields that were lost when a document was decoded."""
    if isinstance(printed, dict):
        for name, value in printed.items():
            if name not in decoded:
                yield f"{path}.{name}"
            else:
                yield from undocumented(value, decoded[name], f"{path}.{name}")
    elif isinstance(printed, list):
        for one, other in zip(printed, decoded, strict=True):
            yield from undocumented(one, other, f"{path}[]")
