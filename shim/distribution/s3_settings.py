"""What an S3-compatible store is reached with: the variables and files that AWS's tools use."""

from __future__ import annotations

import configparser
import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shim.distribution.http_options import HttpOptions
from shim.errors import InvalidArgument, NotFound, PermissionDenied
from shim.host.files import read_bounded

_MAX_BYTES = 1 << 20
_DEFAULT_REGION = "us-east-1"
# The variables, with their names in obstore.
_NAMES = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_REGION": "region",
    "AWS_ENDPOINT_URL": "endpoint",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file",
    "AWS_ROLE_ARN": "role_arn",
    "AWS_ROLE_SESSION_NAME": "role_session_name",
    "AWS_ENDPOINT_URL_STS": "sts_endpoint",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "container_credentials_relative_uri",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "container_credentials_full_uri",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "container_authorization_token_file",
    "AWS_METADATA_ENDPOINT": "metadata_endpoint",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "virtual_hosted_style_request",
    "AWS_SKIP_SIGNATURE": "skip_signature",
    "AWS_SERVER_SIDE_ENCRYPTION": "server_side_encryption",
    "AWS_SSE_KMS_KEY_ID": "sse_kms_key_id",
    "AWS_REQUEST_PAYER": "request_payer",
}
# What obtains credentials without a key in a variable or file.
_OTHER_SOURCES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_KEY = ("access_key_id", "secret_access_key", "session_token")
_SWITCHES = ("virtual_hosted_style_request", "skip_signature", "request_payer")
_FROM_FILES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
    "endpoint_url": "AWS_ENDPOINT_URL",
}
_REMEDY = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"


def config_of(settings: Mapping[str, str], options: HttpOptions) -> dict[str, Any]:
    """Return the configuration of obstore's store.

    What has a default is in it too: obstore would look into the environment of this process, and
    send the credentials of one to the endpoint of the other.

    Raises:
        InvalidArgument: the endpoint is not a URL, or has no TLS and `plain_http` is not set.
        PermissionDenied: there are no credentials.
    """
    found = _completed({name: text for name, text in settings.items() if text})
    _check_credentials(found)
    _check_endpoint(found.get("AWS_ENDPOINT_URL"), options)
    config: dict[str, Any] = {ours: found[name] for name, ours in _NAMES.items() if name in found}
    config.setdefault("region", _DEFAULT_REGION)
    config.setdefault("endpoint", f"https://s3.{config['region']}.amazonaws.com")
    config["aws_endpoint_url_s3"] = config["endpoint"]
    for name in _SWITCHES:
        config[name] = str(config.get(name, "")).lower() in {"1", "true"}
    return config


def provider_of(config: dict[str, Any]) -> Callable[[], dict[str, Any]] | None:
    """Take a key out of a configuration; return what provides it to obstore, None without one."""
    key, secret, token = (config.pop(name, None) for name in _KEY)
    if key is None:
        return None
    return lambda: {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": None,
    }


def ca_of(settings: Mapping[str, str], options: HttpOptions) -> bytes | None:
    """Return the certificates of CAs to trust besides those of the system, as PEM."""
    path = options.ca_file or settings.get("AWS_CA_BUNDLE")
    return read_bounded(Path(path), _MAX_BYTES, nofollow=False) if path else None


def _completed(settings: dict[str, str]) -> dict[str, str]:
    """Add what the files have, and the names of variables with a second one."""
    for first, second in (
        ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
        ("AWS_REGION", "AWS_DEFAULT_REGION"),
        ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    ):
        # The endpoint of the service takes precedence over the one of all services.
        if second in settings and (first == "AWS_ENDPOINT_URL" or first not in settings):
            settings[first] = settings[second]
    from_files = _of_files(settings)
    if "AWS_ACCESS_KEY_ID" in settings or "AWS_SECRET_ACCESS_KEY" in settings:
        # A key, its secret and its token belong together.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            from_files.pop(name, None)
    return {**from_files, **settings}


def _of_files(settings: Mapping[str, str]) -> dict[str, str]:
    home = Path(settings.get("HOME") or Path.home()) / ".aws"
    profile = settings.get("AWS_PROFILE", "default")
    section = profile if profile == "default" else f"profile {profile}"
    config = _section(Path(settings.get("AWS_CONFIG_FILE") or home / "config"), section)
    keys = _section(
        Path(settings.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"), profile
    )
    return {
        name: text for key, name in _FROM_FILES.items() if (text := {**config, **keys}.get(key))
    }


def _section(path: Path, name: str) -> dict[str, str]:
    try:
        text = read_bounded(path, _MAX_BYTES, nofollow=False).decode("utf-8", "replace")
    except NotFound:
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        # Its message may have a line of the file, and so a secret.
        message = f"{path} cannot be read as an INI file"
        raise InvalidArgument(message, remedy="correct it") from error
    return dict(parser[name]) if parser.has_section(name) else {}


def _check_credentials(settings: Mapping[str, str]) -> None:
    key, secret = ("AWS_ACCESS_KEY_ID" in settings, "AWS_SECRET_ACCESS_KEY" in settings)
    if key != secret:
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        message = f"the credentials of the bucket are not complete: {missing} is missing"
        raise PermissionDenied(message, remedy=_REMEDY)
    has_other = any(name in settings for name in _OTHER_SOURCES)
    no_metadata = settings.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    if no_metadata and not key and not has_other:
        message = "there are no credentials for the bucket"
        raise PermissionDenied(message, remedy=_REMEDY)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_endpoint(endpoint: str | None, options: HttpOptions) -> None:
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        message = "AWS_ENDPOINT_URL is not a URL such as https://s3.example.com"
        raise InvalidArgument(message, remedy="correct it")
    if parts.scheme == "http" and not (options.plain_http or _is_loopback(parts.hostname)):
        message = f"the endpoint {parts.hostname} has no TLS"
        remedy = "use https in AWS_ENDPOINT_URL, or --plain-http if the network is trusted"
        raise InvalidArgument(message, remedy=remedy)
