from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from shim.distribution import credentials, docker_config
from shim.distribution.credentials import Credentials
from shim.distribution.endpoint import Endpoint, endpoint_of
from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import RegistryRef
from shim.errors import CryoError, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound

HOST = "registry.example.com"
REFERENCE = RegistryRef(host=HOST, repository="snap/llama")
ENDPOINT = endpoint_of(REFERENCE, HttpOptions())
AUTH = base64.b64encode(b"user:pass:word").decode()


def find(folder: Path, endpoint: Endpoint = ENDPOINT, **config: object) -> Credentials | None:
    """Look for credentials in a file with this content."""
    path = folder / "config.json"
    path.write_text(json.dumps(config), "utf-8")
    return credentials.find(endpoint, HttpOptions(docker_config=str(path), helper_s=30))


@pytest.mark.parametrize(
    ("entry", "expected"),
    (
        ({"auth": AUTH}, ("user", "pass:word", "")),
        ({"username": "user", "password": "secret"}, ("user", "secret", "")),
        ({"auth": AUTH, "identitytoken": "id"}, ("user", "", "id")),
        ({"identitytoken": "id"}, ("", "", "id")),
    ),
)
def test_each_form_of_an_entry_is_read(
    tmp_path: Path, entry: dict[str, str], expected: tuple[str, str, str]
) -> None:
    """A user with a password, encoded or not, or an identity token."""
    found = find(tmp_path, auths={HOST: entry})

    assert found is not None
    assert (found.username, found.password, found.identity_token) == expected
    assert found.source == str(tmp_path / "config.json")


@pytest.mark.parametrize(
    "key", (HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"{HOST}/snap", f"{HOST}/snap/llama")
)
def test_each_name_of_a_registry_is_known(tmp_path: Path, key: str) -> None:
    """Docker has written URLs, and Podman may have a path."""
    assert find(tmp_path, auths={key: {"auth": AUTH}}) is not None


def test_the_most_specific_name_wins(tmp_path: Path) -> None:
    """One repository may have another user than the registry."""
    other = base64.b64encode(b"other:x").decode()
    found = find(tmp_path, auths={HOST: {"auth": AUTH}, f"{HOST}/snap": {"auth": other}})

    assert found is not None
    assert found.username == "other"


@pytest.mark.parametrize("key", ("other.example.com", f"{HOST}:443", f"{HOST}/other", f"x{HOST}"))
def test_the_credentials_of_others_are_not_used(tmp_path: Path, key: str) -> None:
    """Only those of this registry, with this port."""
    assert find(tmp_path, auths={key: {"auth": AUTH}}) is None


def test_the_default_registry_has_docker_s_name(tmp_path: Path) -> None:
    """Its API has another host, and repositories without a folder are in one."""
    hub = endpoint_of(RegistryRef(host="docker.io", repository="llama"), HttpOptions())

    assert hub.at("x") == "https://registry-1.docker.io/v2/library/llama/x"
    assert find(tmp_path, hub, auths={"https://index.docker.io/v1/": {"auth": AUTH}}) is not None


@pytest.mark.parametrize(
    "text", ("secret-text", "[]", '{"auths": {"h": "secret-text"}}', '{"credsStore": 1}')
)
def test_a_malformed_file_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    """It has secrets."""
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")

    with pytest.raises(InvalidArgument) as caught:
        credentials.find(ENDPOINT, HttpOptions(docker_config=str(path)))

    assert str(path) in caught.value.message
    assert "secret-text" not in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize("auth", ("%%%", base64.b64encode(b"nocolon").decode()))
def test_an_entry_that_is_no_login_is_an_error(tmp_path: Path, auth: str) -> None:
    """The file and the registry are named."""
    with pytest.raises(InvalidArgument, match=f"config.json.*{HOST}"):
        find(tmp_path, auths={HOST: {"auth": auth}})


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither the values nor the parts of a file print theirs."""
    found = find(tmp_path, auths={HOST: {"username": "user", "password": "hunter2"}})

    assert "hunter2" not in repr(found)
    assert "hunter2" not in repr(docker_config.load(tmp_path / "config.json"))


def test_the_files_are_those_of_docker_and_podman(tmp_path: Path) -> None:
    """Docker's first; a missing one is passed over."""
    environ = {"DOCKER_CONFIG": str(tmp_path / "none"), "REGISTRY_AUTH_FILE": str(tmp_path / "p")}
    (tmp_path / "p").write_text(json.dumps({"auths": {HOST: {"auth": AUTH}}}), "utf-8")

    found = credentials.find(ENDPOINT, HttpOptions(), environ)

    assert found is not None
    assert found.source == str(tmp_path / "p")
    assert docker_config.paths(None, {"XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c"})[1:] == [
        Path("/r/containers/auth.json"),
        Path("/c/containers/auth.json"),
    ]


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a credential helper named `test` is looked for."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "docker-credential-test"


def write_helper(path: Path, script: str) -> None:
    """Write a helper that checks how it is called, and runs a script."""
    path.write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\nread -r host\n{script}\n')
    path.chmod(0o755)


ANSWER = '{"ServerURL":"%s","Username":"%s","Secret":"hunter2"}'


@pytest.mark.parametrize("how", ({"credHelpers": {HOST: "test"}}, {"credsStore": "test"}))
@pytest.mark.parametrize(
    ("user", "expected"), (("user", ("user", "hunter2", "")), ("<token>", ("", "", "hunter2")))
)
def test_a_helper_is_asked(
    tmp_path: Path,
    helper: Path,
    how: dict[str, object],
    user: str,
    expected: tuple[str, str, str],
) -> None:
    """For one registry or all, with the host on its input."""
    answer = ANSWER % (HOST, user)
    write_helper(helper, f"[ \"$host\" = {HOST} ] && echo '{answer}'")

    found = find(tmp_path, ENDPOINT, **how)

    assert found is not None
    assert (found.username, found.password, found.identity_token) == expected
    assert "docker-credential-test" in found.source


def test_a_helper_that_has_none_leaves_the_file(tmp_path: Path, helper: Path) -> None:
    """As Docker's own do: the text is on their output, and they fail."""
    write_helper(helper, "echo credentials not found in native keychain; exit 1")

    found = find(tmp_path, credsStore="test", auths={HOST: {"auth": AUTH}})

    assert found is not None
    assert found.username == "user"


@pytest.mark.parametrize(
    ("script", "kind"),
    (
        ("echo hunter2; exit 1", FailedPrecondition),
        ("echo hunter2", FailedPrecondition),
        ("sleep 600 & sleep 600", DeadlineExceeded),
        (None, NotFound),
    ),
    ids=("fails", "prints something else", "hangs", "missing"),
)
def test_a_helper_that_fails_is_named_without_its_output(
    tmp_path: Path, helper: Path, script: str | None, kind: type[CryoError]
) -> None:
    """What it printed may be a secret; the remedy shows how to see it."""
    if script is not None:
        write_helper(helper, script)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credsStore": "test"}), "utf-8")

    with pytest.raises(kind, match="docker-credential-test") as caught:
        credentials.find(ENDPOINT, HttpOptions(docker_config=str(path), helper_s=0.5))

    assert "hunter2" not in caught.value.message + caught.value.remedy
    assert "docker" in caught.value.remedy


@pytest.mark.parametrize("name", ("../x", "a b", "-x", "/bin/sh"))
def test_a_helper_has_a_plain_name(tmp_path: Path, name: str) -> None:
    """It is a program on PATH and nothing else."""
    with pytest.raises(InvalidArgument):
        find(tmp_path, credsStore=name)
