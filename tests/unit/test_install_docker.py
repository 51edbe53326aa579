"""The runtime in Docker's daemon.json: added, found and removed again, in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import AlreadyExists, CryoError, FailedPrecondition, InvalidArgument
from shim.install import docker

FILE = Path("/etc/docker/daemon.json")
NVIDIA = """\
{
    "default-runtime": "nvidia",
    "log-opts": {"tag": "}, {\\"runtimes\\": {"},
    "runtimes": {
        "nvidia": {
            "args": [],
            "path": "nvidia-container-runtime"
        }
    }
}
"""
TEXTS = {
    "missing": None,
    "empty": "",
    "newline": "\n",
    "spaces": "  \n ",
    "object": "{}",
    "object with a newline": "{\n}\n",
    "no runtimes": '{"debug":true}',
    "empty runtimes": '{"runtimes": {}, "debug": true}\n',
    "empty runtimes, spaced": '{\n\t"runtimes":\t{\n\t}\n}',
    "nvidia": NVIDIA,
    "experimental": '{\n  "experimental": true\n}\n',
}
ENTRY = {"runtimeType": "io.containerd.cryo.v1"}


@pytest.mark.parametrize("settings", ("", "/etc/cryo/other.toml"))
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_removal_undoes_an_addition(text: str | None, settings: str) -> None:
    """The text is byte for byte what it was, and in between it differs by the runtime only."""
    added = docker.added(text, settings, FILE)

    assert docker.added(added, settings, FILE) == added
    found = json.loads(added)
    options = {"options": {"ConfigPath": settings}} if settings else {}
    assert found["runtimes"].pop("cryo") == ENTRY | options
    before = json.loads(text) if text and text.strip() else {}
    assert found | {"runtimes": {}} == before | {"runtimes": {}} or found == before
    assert docker.removed(added, FILE) == text
    assert docker.removed(text, FILE) == text


VALUES: tuple[Any, ...] = (
    *(None, True, -1.5e3, "", "a", '"}', "\\", "{,:}", [], {}, [1, ["cryo"]]),
    *({"runtimes": {"cryo": {}}}, {"a": [{}], "b": {"c": 1}}),
)
MEMBERS = st.dictionaries(
    st.sampled_from(("", "a", "runtimes ", '"cryo"', "\n", "é")), st.sampled_from(VALUES)
)


@given(MEMBERS, st.none() | MEMBERS, st.sampled_from((None, 0, 2)), st.sampled_from(("", "\n")))
def test_any_object_stays(
    config: dict[str, Any], runtimes: dict[str, Any] | None, indent: int | None, end: str
) -> None:
    """An addition and a removal leave every object as it was, however it is written."""
    before = config | ({} if runtimes is None else {"runtimes": runtimes})
    text = json.dumps(before, indent=indent)

    added = docker.added(text + end, "", FILE)

    assert json.loads(added) == config | {"runtimes": {**(runtimes or {}), "cryo": ENTRY}}
    assert docker.removed(added, FILE) == text + end


@pytest.mark.parametrize(
    ("text", "removed"),
    (
        ('{"runtimes":{"x":{},"cryo":{}},"b":2}', '{"runtimes":{"x":{}},"b":2}'),
        ('{"runtimes":{"cryo":{"a":[1]},"x":{}}}', '{"runtimes":{"x":{}}}'),
        ('{"runtimes":{"x":{}, "cryo":{}, "y":1}}', '{"runtimes":{"x":{}, "y":1}}'),
        ('{"a":1, "runtimes": {\n"cryo": {}\n}}', '{"a":1, "runtimes": {\n}}'),
    ),
    ids=("last", "first", "between", "alone"),
)
def test_the_runtime_is_removed_wherever_it_is(text: str, removed: str) -> None:
    """What was added by hand or moved is removed with one comma."""
    assert docker.removed(text, FILE) == removed


def test_what_was_changed_since_stays() -> None:
    """A runtime that was added since then is kept, and so is the object around it."""
    added = docker.added('{\n  "debug": true\n}\n', "", FILE)
    changed = added.replace('"cryo":', '"kata": {"runtimeType": "k"}, "cryo":')

    removed = docker.removed(changed, FILE)

    assert removed == '{\n  "runtimes": {"kata": {"runtimeType": "k"}},\n  "debug": true\n}\n'


@pytest.mark.parametrize(
    ("text", "error", "said"),
    (
        ("{", InvalidArgument, "not valid JSON"),
        ("[]", InvalidArgument, "not a JSON object"),
        ('{"runtimes": null}', InvalidArgument, "not an object"),
        ('{"runtimes": {"cryo": {"path": "/x"}}}', AlreadyExists, "another runtime cryo"),
    ),
    ids=("broken", "a list", "null", "conflict"),
)
def test_what_cannot_be_extended_is_refused(text: str, error: type[CryoError], said: str) -> None:
    """Each is an error with a remedy."""
    with pytest.raises(error, match=said) as raised:
        docker.added(text, "", FILE)

    assert raised.value.remedy


def test_a_default_runtime_is_not_removed() -> None:
    """Docker would not start without it."""
    config = {"default-runtime": "cryo"}

    with pytest.raises(FailedPrecondition, match="is the default-runtime"):
        docker.check_not_default(config, FILE)
