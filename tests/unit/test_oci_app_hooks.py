"""The annotations of hooks: what they say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.oci import document
from shim.oci.annotations import TaskAnnotations, read_annotations
from shim.oci.app_hooks import (
    AppHookKind,
    AppHooks,
    Command,
    Url,
    parse,
    parse_action,
    read_app_hooks,
)

PRE, POST = AppHookKind.PRE_FREEZE, AppHookKind.POST_THAW


@pytest.mark.parametrize(
    ("text", "action"),
    (
        ("exec /bin/drop", Command(argv=("/bin/drop",))),
        ("exec sh -c 'a b; c' \"d e\"", Command(argv=("sh", "-c", "a b; c", "d e"))),
        ("exec echo $HOME *", Command(argv=("echo", "$HOME", "*"))),
        ("http://:8000/sleep?level=1", Url(port=8000, target="/sleep?level=1")),
        ("http://:80", Url(port=80, target="/")),
        ("http://localhost:1/", Url(port=1, target="/")),
        ("http://127.0.0.1:65535/a", Url(port=65535, target="/a")),
    ),
)
def test_an_action(text: str, action: Command | Url) -> None:
    """A command is split as by a shell, and not run by one; a request goes to the loopback."""
    assert parse_action(text) == action
    assert parse_action(str(action)) == action


@pytest.mark.parametrize(
    "text",
    (
        "",
        "exec",
        "exec ",
        "exec ''",
        "exec 'open",
        "/bin/drop",
        "http://:0/",
        "http://:65536/",
        "http://:/x",
        "http://10.0.0.1:80/",
        "http://example.com:80/",
        "https://:80/",
        "http://:80/a b",
        "http://:80/a\r\nHost: x",
        "http://:80/ü",
        "http://:80x",
        "exec " + "x" * 5000,
    ),
)
def test_no_action(text: str) -> None:
    """It is an error that names the annotation."""
    with pytest.raises(InvalidArgument, match=r"io\.cryo\.hook\.pre-freeze is not valid"):
        parse({"io.cryo.hook.pre-freeze": text})


def test_hooks_of_a_container_and_of_a_pod() -> None:
    """A name of a container may follow the kind."""
    annotations = {
        "io.cryo.hook.pre-freeze": "exec a",
        "io.cryo.hook.post-thaw.web-1": "http://:80/",
        "io.cryo.hook.timeout": "2.5",
        "io.cryo.engine": "phased",
        "org.example": "x",
    }
    data = {"ociVersion": "1.1.0", "process": {"args": ["x"]}, "root": {"path": "rootfs"}}
    spec = document.parse({**data, "annotations": annotations}, Path("/b"))

    hooks = read_app_hooks(spec)

    assert hooks == AppHooks(
        own={PRE: Command(argv=("a",))},
        named={(POST, "web-1"): Url(port=80, target="/")},
        timeout_s=2.5,
    )
    assert hooks.kinds == {PRE, POST}
    assert read_annotations(spec).engine == "phased"


def test_a_mistake_in_a_hook_is_one_in_the_annotations() -> None:
    """It is reported at Create, not at the first checkpoint."""
    data = {"ociVersion": "1.1.0", "process": {"args": ["x"]}, "root": {"path": "rootfs"}}
    wrong = {"io.cryo.hook.pre-freeze": "drop"}
    with pytest.raises(InvalidArgument, match="neither exec COMMAND nor http"):
        read_annotations(document.parse({**data, "annotations": wrong}, Path("/b")))
    assert read_annotations(document.parse(data, Path("/b"))) == TaskAnnotations()


@pytest.mark.parametrize(
    "name",
    ("", "pre-thaw", "timeout.web", "pre-freeze.", "pre-freeze.Web", "pre-freeze.a.b", "x.web"),
)
def test_an_unknown_annotation(name: str) -> None:
    """It is refused, with those that there are."""
    with pytest.raises(InvalidArgument, match="is unknown") as caught:
        parse({f"io.cryo.hook.{name}": "exec x"})
    assert "io.cryo.hook.post-restore" in caught.value.remedy


@pytest.mark.parametrize("text", ("", "0", "-1", "3601", "inf", "nan", "1m"))
def test_a_timeout(text: str) -> None:
    """It is a number of seconds, at most an hour."""
    with pytest.raises(InvalidArgument, match="number of seconds"):
        parse({"io.cryo.hook.timeout": text})
