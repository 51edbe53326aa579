"""A control plane without controllers: etcd and the API server, in a network namespace.

There is no scheduler, so a pod names its node, and no controller, so each namespace needs the
objects that a pod requires: the default service account and the certificate of the authority. The
server makes the certificate itself, and accepts one static token for everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.containerd.daemon import Daemon
from tests.kubernetes.network import ADDRESS, Network
from tests.kubernetes.objects import Objects, Refused

PORT = 6443
_ETCD_PORT = 2379
_PEER_PORT = 2380
_KEY_S = 30.0
_OPERATOR = "operator,1,system:masters"
# They wait for controllers that do not run here.
_NOT_ADMITTED = "TaintNodesByCondition,DefaultStorageClass,StorageObjectInUseProtection"


class Etcd(Daemon):
    """The database of a control plane."""

    def __init__(self, network: Network, etcd: Path) -> None:
        super().__init__("etcd", network.place, programs={"etcd": etcd})
        self._network = network

    def argv(self) -> list[str]:
        """Return the command line."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (_ETCD_PORT, _PEER_PORT))
        options = {
            "data-dir": str(self.folder / "root"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        return command(self.folder / "bin/etcd", options)

    def answers(self) -> bool:
        """Return whether it accepts connections."""
        return self._network.listens(_ETCD_PORT)


class ApiServer(Daemon):
    """The API server, with etcd beside it."""

    def __init__(self, network: Network, server: Path) -> None:
        super().__init__("apiserver", network.place, programs={"kube-apiserver": server})
        self._network = network
        self.token = secrets.token_hex(16)

    def prepare(self) -> None:
        """Write the keys of service accounts, and the token."""
        key, public = str(self._key), str(self._public_key)
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        self.place.do("openssl", "genpkey", *curve, "-out", key, timeout_s=_KEY_S)
        self.place.do("openssl", "pkey", "-in", key, "-pubout", "-out", public, timeout_s=_KEY_S)
        self._tokens.write_text(f"{self.token},{_OPERATOR}\n", "utf-8")
        self._tokens.chmod(0o600)

    def argv(self) -> list[str]:
        """Return the command line."""
        options = {
            "etcd-servers": f"http://127.0.0.1:{_ETCD_PORT}",
            "bind-address": "127.0.0.1",
            "advertise-address": ADDRESS,
            "secure-port": str(PORT),
            "cert-dir": str(self.folder / "root"),
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": "10.96.0.0/24",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(self._public_key),
            "service-account-signing-key-file": str(self._key),
            "token-auth-file": str(self._tokens),
            "authorization-mode": "AlwaysAllow",
            "disable-admission-plugins": _NOT_ADMITTED,
            "allow-privileged": "true",
            "kubelet-preferred-address-types": "InternalIP",
        }
        return command(self.folder / "bin/kube-apiserver", options)

    def answers(self) -> bool:
        """Return whether it is ready."""
        if not self._network.listens(PORT):
            return False
        try:
            return self.objects().fetch("GET", "/readyz") == b"ok"
        except (Refused, ConnectionError):  # it starts
            return False

    @property
    def authority(self) -> str:
        """The certificate by which clients know the server."""
        return (self.folder / "root/apiserver.crt").read_text("utf-8")

    def objects(self) -> Objects:
        """Return a client."""
        return Objects(
            lambda timeout_s: self._network.connect(PORT, timeout_s),
            authority=self.authority,
            token=self.token,
        )

    @property
    def _key(self) -> Path:
        return self.folder / "root/accounts.key"

    @property
    def _public_key(self) -> Path:
        return self.folder / "root/accounts.pub"

    @property
    def _tokens(self) -> Path:
        return self.folder / "root/tokens.csv"


class ControlPlane:
    """A running control plane, and the objects that it keeps."""

    def __init__(self, server: ApiServer) -> None:
        self.objects = server.objects()
        self._server = server

    def kubeconfig(self) -> dict[str, object]:
        """Return the configuration of a client, such as a kubelet."""
        authority = str(self._server.folder / "root/apiserver.crt")
        cluster = {"server": f"https://127.0.0.1:{PORT}", "certificate-authority": authority}
        context = {"cluster": "test", "user": "test"}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self._server.token}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }

    def add_namespace(self, name: str) -> None:
        """Create a namespace, unless it is `default`, with what its pods need."""
        if self.objects.read("Namespace", name) is None:
            self._create("Namespace", name, "")
        self._create("ServiceAccount", "default", name)
        self._create("ConfigMap", "kube-root-ca.crt", name, data={"ca.crt": self._server.authority})

    def add_runtime_class(self, name: str) -> None:
        """Create a RuntimeClass whose handler has the same name."""
        self.objects.create(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": name},
                "handler": name,
            }
        )

    def _create(self, kind: str, name: str, namespace: str, **more: object) -> None:
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        self.objects.create({"apiVersion": "v1", "kind": kind, "metadata": metadata, **more})


@contextmanager
def control_plane(network: Network, etcd: Path, server: Path) -> Iterator[ControlPlane]:
    """Yield a control plane whose default namespace can have pods."""
    with Etcd(network, etcd), ApiServer(network, server) as started:
        made = ControlPlane(started)
        made.add_namespace("default")
        yield made


def command(program: Path, options: Mapping[str, str]) -> list[str]:
    """Return a command line with options as `--NAME=VALUE`."""
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]
