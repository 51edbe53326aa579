"""The config.toml of a containerd under test: all paths in its own directory, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.containerd.builds import ContainerdBuild

_CRI_OFF = {
    2: ("io.containerd.grpc.v1.cri",),
    3: ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"),
}


@dataclass(frozen=True)
class Cri:
    """Settings of containerd's CRI plugin: the pause image, and runtimes by name.

    `runtimes` maps the handler's name to the runtime's type. Their containers begin with
    `base_spec`, or with containerd's default.
    """

    sandbox_image: str
    runtimes: Mapping[str, str] = field(default_factory=dict)
    base_spec: Path | None = None


def write_config(
    folder: Path,
    build: ContainerdBuild,
    cri: Cri | None,
    more: str,
    imports: Sequence[Path] = (),
) -> Path:
    """Write config.toml into containerd's directory, with `more` appended."""
    version = build.config_version
    off = [] if cri else list(_CRI_OFF[version])
    lines = [
        f"version = {version}",
        f'root = "{folder}/root"',
        f'state = "{folder}/state"',
        f"disabled_plugins = {off}",
        f"imports = {[str(path) for path in imports]}",
        "[grpc]",
        f'  address = "{folder}/containerd.sock"',
        '[plugins."io.containerd.internal.v1.opt"]',
        f'  path = "{folder}/opt"',
        *(['[plugins."io.containerd.nri.v1.nri"]', "  disable = true"] if version > 2 else []),
        *(_cri(folder, build, cri) if cri else []),
        more,
    ]
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _cri(folder: Path, build: ContainerdBuild, cri: Cri) -> list[str]:
    return _cri_v2(folder, cri) if build.config_version == 2 else _cri_v3(folder, cri)


def _cri_v2(folder: Path, cri: Cri) -> list[str]:
    name = 'plugins."io.containerd.grpc.v1.cri"'
    return [
        f"[{name}]",
        f'  sandbox_image = "{cri.sandbox_image}"',
        # Lowering an OOM score needs CAP_SYS_RESOURCE, which a virtual machine may lack.
        "  restrict_oom_score_adj = true",
        "  disable_apparmor = true",
        "  tolerate_missing_hugetlb_controller = true",
        *_cni(name, folder, f'bin_dir = "{folder}/cni/bin"'),
        f"[{name}.containerd]",
        '  snapshotter = "native"',
        *_runtimes(f"{name}.containerd", cri),
    ]


def _cri_v3(folder: Path, cri: Cri) -> list[str]:
    name = 'plugins."io.containerd.cri.v1.runtime"'
    images = 'plugins."io.containerd.cri.v1.images"'
    return [
        f"[{images}]",
        '  snapshotter = "native"',
        f"[{images}.pinned_images]",
        f'  sandbox = "{cri.sandbox_image}"',
        f"[{name}]",
        "  restrict_oom_score_adj = true",
        "  disable_apparmor = true",
        "  tolerate_missing_hugetlb_controller = true",
        *_cni(name, folder, f'bin_dirs = ["{folder}/cni/bin"]'),
        *_runtimes(f"{name}.containerd", cri),
        '[plugins."io.containerd.grpc.v1.cri"]',
        "  disable_tcp_service = true",
    ]


def _cni(name: str, folder: Path, plugins: str) -> list[str]:
    # Only the pods of tests/kubernetes have a network; the others use the host's.
    return [
        f"[{name}.cni]",
        f'  conf_dir = "{folder}/cni/conf"',
        f"  {plugins}",
    ]


def _runtimes(name: str, cri: Cri) -> list[str]:
    lines = []
    for handler, kind in {"runc": "io.containerd.runc.v2", **cri.runtimes}.items():
        lines += [f"[{name}.runtimes.{handler}]", f'  runtime_type = "{kind}"']
        if handler in cri.runtimes:
            lines += [
                '  pod_annotations = ["io.cryo.*"]',
                '  container_annotations = ["io.cryo.*"]',
            ]
            if cri.base_spec is not None:
                lines.append(f'  base_runtime_spec = "{cri.base_spec}"')
    return lines
