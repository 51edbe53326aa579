"""Environment variables that look like secrets: named, and without their values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.oci import secret_variables
from shim.oci.secret_variables import looks_secret

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["env", "process", "hooks", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "name",
    (
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "PGPASSWORD",
        "MYSQL_PWD",
        "db.passwd",
        "apiKey",
        "Authorization",
        "OAUTH",
        "HF_TOKEN_2",
        "PASSWORD1",
        "SENTRY_DSN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SSH_PASSPHRASE",
    ),
)
def test_names_of_secrets(name: str) -> None:
    """Of services, libraries and databases."""
    assert looks_secret(name, "x")


@pytest.mark.parametrize(
    "name",
    (
        "PATH",
        "PWD",
        "OLDPWD",
        "HOME",
        "TOKENIZERS_PARALLELISM",
        "AUTHOR",
        "KEYBOARD_LAYOUT",
        "COMPASS_URL",
        "GLIBC_COMPAT",
        "SHIPPING",
        "PYTHON_VERSION",
        "",
    ),
)
def test_names_of_others(name: str) -> None:
    """Words that only begin or end like those."""
    assert not looks_secret(name, "plain")


@pytest.mark.parametrize(
    "value",
    (
        "postgres://app:hunter2@db:5432/app",
        "redis://:hunter2@cache",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln",
        "ghp_0123456789abcdefghij",
        "AGE-SECRET-KEY-1QQQQ",
    ),
)
def test_values_of_secrets(value: str) -> None:
    """Whatever the name."""
    assert looks_secret("SETTING", value)


@pytest.mark.parametrize(
    "value", ("http://cache:8080/path", "https://me@host/", "task-1234567890abcd", "a:b@c", "")
)
def test_values_of_others(value: str) -> None:
    """A port is not a password."""
    assert not looks_secret("SETTING", value)


SPEC: dict[str, Any] = {
    "process": {"env": ["PATH=/bin", "API_TOKEN=a=b", "EMPTY_KEY", "URL=http://u:p@h", 7]},
    "hooks": {"poststop": [{"path": "/x", "env": ["HOOK_SECRET=s"]}]},
    "annotations": {"env": "text"},
}


def test_values_are_masked_and_names_stay() -> None:
    """Of the process and of hooks; what is no text stays, as the spec may come from anywhere."""
    assert secret_variables.masked(SPEC) == {
        "process": {
            "env": ["PATH=/bin", "API_TOKEN=***", "EMPTY_KEY=***", "URL=***", 7],
        },
        "hooks": {"poststop": [{"path": "/x", "env": ["HOOK_SECRET=***"]}]},
        "annotations": {"env": "text"},
    }
    assert secret_variables.names_in(SPEC) == ("API_TOKEN", "EMPTY_KEY", "HOOK_SECRET", "URL")


@given(_json)
def test_any_spec_is_masked(spec: Any) -> None:
    """And what was masked is not changed again."""
    found = secret_variables.masked(spec)

    assert secret_variables.masked(found) == found
    assert isinstance(secret_variables.names_in(spec), tuple)
