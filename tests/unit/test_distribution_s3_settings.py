"""Settings of S3-compatible stores: from variables, and from the files of AWS's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.distribution import s3_settings
from shim.distribution.http_options import HttpOptions
from shim.distribution.opening import open_place
from shim.distribution.reference import BucketRef
from shim.distribution.settings import TransferSettings
from shim.errors import InvalidArgument, PermissionDenied

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
OFF = {"virtual_hosted_style_request": False, "skip_signature": False, "request_payer": False}
PLAIN = HttpOptions(plain_http=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home with the files that `aws configure` writes."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = fid\naws_secret_access_key = f%secret\n"
        "[work]\naws_access_key_id = wid\naws_secret_access_key = ws\naws_session_token = wt\n"
    )
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = eu-central-1\n[profile work]\nregion = us-west-2\n"
        "endpoint_url = https://s3.work.example\n"
    )
    return tmp_path


def config(settings: dict[str, str], options: HttpOptions = HttpOptions()) -> dict[str, Any]:  # noqa: B008 - a frozen value
    """Return the configuration of settings; nothing is read from this machine's own files."""
    found = s3_settings.config_of({"HOME": "/nonexistent", **settings}, options)
    assert found.pop("aws_endpoint_url_s3") == found["endpoint"]
    return found


def test_variables() -> None:
    """The region has a default; what is empty counts as missing."""
    assert config({**KEYS, "AWS_REGION": "", "PATH": "/bin"}) == {
        "access_key_id": "id",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "endpoint": "https://s3.us-east-1.amazonaws.com",
        **OFF,
    }


def test_variables_with_two_names() -> None:
    """The endpoint of S3 precedes that of all services, AWS_REGION the default region."""
    settings = {
        "AWS_ENDPOINT_URL": "https://all.example",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "AWS_REGION": "a",
        "AWS_DEFAULT_REGION": "b",
    }

    found = config({**KEYS, **settings})

    assert (found["endpoint"], found["region"]) == ("https://s3.example", "a")
    assert config({**KEYS, "AWS_DEFAULT_REGION": "b"})["region"] == "b"


def test_files_of_the_default_profile(home: Path) -> None:
    """As `aws configure` writes them."""
    assert config({"HOME": str(home)}) == {
        "access_key_id": "fid",
        "secret_access_key": "f%secret",
        "region": "eu-central-1",
        "endpoint": "https://s3.eu-central-1.amazonaws.com",
        **OFF,
    }


def test_files_of_another_profile(home: Path) -> None:
    """With a session token and an endpoint."""
    assert config({"HOME": str(home), "AWS_PROFILE": "work"}) == {
        "access_key_id": "wid",
        "secret_access_key": "ws",
        "session_token": "wt",
        "region": "us-west-2",
        "endpoint": "https://s3.work.example",
        **OFF,
    }


def test_a_key_in_variables_is_not_mixed_with_one_in_files(home: Path) -> None:
    """Not even with a session token; the region still comes from the file."""
    assert config({"HOME": str(home), "AWS_PROFILE": "work", **KEYS}) == {
        "access_key_id": "id",
        "secret_access_key": "secret",
        "region": "us-west-2",
        "endpoint": "https://s3.work.example",
        **OFF,
    }


@pytest.mark.parametrize("missing", KEYS)
def test_half_a_key_is_refused(home: Path, missing: str) -> None:
    """The other half is named."""
    half = {name: text for name, text in KEYS.items() if name != missing}

    with pytest.raises(PermissionDenied, match=f"{missing} is missing"):
        config({"HOME": str(home), **half})


def test_no_credentials_are_refused_where_no_machine_provides_them() -> None:
    """Without a request; other sources are used."""
    off = {"AWS_EC2_METADATA_DISABLED": "true"}

    with pytest.raises(PermissionDenied, match="no credentials") as caught:
        config(off)
    assert "aws configure" in caught.value.remedy
    assert config({**off, "AWS_SKIP_SIGNATURE": "true"})["skip_signature"] is True
    role = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn"}
    assert config({**off, **role})["role_arn"] == "arn"


@pytest.mark.parametrize(
    "url", ("nonsense", "ftp://s3.example", "https://", "http://", "https://user:pw@s3.example")
)
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    """It is not shown, as it may have a password."""
    with pytest.raises(InvalidArgument, match="AWS_ENDPOINT_URL") as caught:
        config({**KEYS, "AWS_ENDPOINT_URL": url}, PLAIN)
    assert "pw" not in str(caught.value)


def test_an_endpoint_without_tls_needs_the_option() -> None:
    """Otherwise what is not encrypted would be sent in the clear by mistake."""
    settings = {**KEYS, "AWS_ENDPOINT_URL": "http://s3.example:9000"}

    with pytest.raises(InvalidArgument, match=r"s3\.example has no TLS"):
        config(settings)
    assert config(settings, PLAIN)["endpoint"] == "http://s3.example:9000"
    for local in ("http://localhost:9000", "http://127.0.0.1:9000", "http://[::1]:9000"):
        assert config({**KEYS, "AWS_ENDPOINT_URL": local})["endpoint"] == local


def test_a_damaged_file_is_named_without_its_content(home: Path) -> None:
    """Its lines are secrets."""
    (home / ".aws/credentials").write_text("hunter2\n[default")

    with pytest.raises(InvalidArgument, match="credentials cannot be read") as caught:
        config({"HOME": str(home)})
    assert "hunter2" not in str(caught.value)


def test_the_ca_is_read_from_the_option_or_the_variable(tmp_path: Path) -> None:
    """The option precedes."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    settings = {"AWS_CA_BUNDLE": str(tmp_path / "one")}

    assert s3_settings.ca_of({}, HttpOptions()) is None
    assert s3_settings.ca_of(settings, HttpOptions()) == b"one"
    assert s3_settings.ca_of(settings, HttpOptions(ca_file=str(tmp_path / "two"))) == b"two"


def test_the_key_is_provided_and_no_part_of_the_configuration() -> None:
    """Neither the token nor the key of this process's environment is used with another's key."""
    found = config(KEYS)

    provider = s3_settings.provider_of(found)

    assert provider is not None
    assert provider() == {
        "access_key_id": "id",
        "secret_access_key": "secret",
        "token": None,
        "expires_at": None,
    }
    assert not {"access_key_id", "secret_access_key", "session_token"} & found.keys()
    assert s3_settings.provider_of(config({"AWS_SKIP_SIGNATURE": "1"})) is None


def test_without_settings_of_a_client_those_of_this_process_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its environment is that of a service; the two are not mixed."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    reference = BucketRef(bucket="images", prefix="a")

    with pytest.raises(InvalidArgument, match="AWS_ENDPOINT_URL"):
        open_place(reference, TransferSettings(), to_write=True)
    open_place(reference, TransferSettings(object_store=KEYS), to_write=True).close()
