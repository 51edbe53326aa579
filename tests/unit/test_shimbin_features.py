"""What `-info` says that the runtime can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from shim.api.containerd.types import introspection_pb2
from shim.entry.shimbin.features import TYPE_URL, features
from shim.host import idmap


def test_info_has_the_features() -> None:
    """The message that containerd reads has them as JSON, under the name that it looks for."""
    argv = [sys.executable, "-m", "shim.entry.shimbin.main", "-info"]
    done = subprocess.run(
        argv, input=b"", stdout=subprocess.PIPE, check=True, timeout=60, env=dict(os.environ)
    )

    info = introspection_pb2.RuntimeInfo.FromString(done.stdout)
    assert info.features.type_url == TYPE_URL
    assert json.loads(info.features.value) == json.loads(json.dumps(features()))


def test_user_namespaces_are_offered() -> None:
    """The kubelet offers them for pods where the runtime has idmapped mounts, which it tries."""
    linux = features()["linux"]

    assert "user" in linux["namespaces"]
    assert linux["mountExtensions"]["idmap"]["enabled"] is idmap.kernel_has_it()


def test_recursive_read_only_mounts_are_not_claimed() -> None:
    """GVisor has none, so a request for one must be refused."""
    options = features()["mountOptions"]

    assert "ro" in options
    assert "rro" not in options
