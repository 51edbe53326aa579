"""What a Kubernetes cluster needs besides Kubernetes: etcd, and plugins for the network of pods."""

from __future__ import annotations

from hack.tools.containerd import BOOKWORM, packaged
from hack.tools.debian import Packages

ETCD = packaged(
    "etcd",
    ("etcd",),
    Packages(
        suite=BOOKWORM,
        version="3.4.",
        pins={"etcd-server": "3a9445d4560ad6de1c375756b2a17d97713df44cbd20a658c871fe108af7ef5d"},
    ),
)
CNI = packaged(
    "cni",
    ("bridge", "host-local", "loopback"),
    Packages(
        suite=BOOKWORM,
        version="1.1.",
        pins={
            "containernetworking-plugins": (
                "4cac8143474d1249b19f7b0e80b8d0daaa6dfdaa8bd514bc468d38d4a108099f"
            )
        },
    ),
)
