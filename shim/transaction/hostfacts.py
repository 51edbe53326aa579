"""The properties of this host that an image depends on, and how they differ from the image's."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from shim.cuda.inventory import Inventory
from shim.errors import HostMismatch
from shim.host import files
from shim.image.manifest import Build, Manifest
from shim.model import Value
from shim.runsc import settings
from shim.runsc.probe import UNVERSIONED

_MAX_CPUINFO_BYTES = 16 << 20
# The flags of /proc/cpuinfo that are instructions or register state which a program may use. The
# others are of kernels, mitigations and virtualization, and change with these.
# Source: arch/x86/include/asm/cpufeatures.h; on other architectures every flag is of this kind.
_PROGRAMS_SEE = re.compile(
    r"""fpu|mmx(ext)?|3dnow(ext)?|s?sse\w*|pni|misalignsse|avx\w*|amx_\w+|fma4?|f16c|xop|tbm
    |aes|vaes|v?pclmulqdq|sha\w*|sm[34]|gfni|bmi[12]|adx|abm|popcnt|movbe|movdiri|movdir64b
    |rdrand|rdseed|rdpid|rdtscp|tsc|fsgsbase|cmov|cx8|cx16|lahf_lm|syscall|lm|nx|fxsr\w*
    |xsave\w*|xgetbv1|pku|ospke|rtm|hle|mpx|clflush(opt)?|clwb|clzero|cldemote|enqcmd
    |erms|fsrm|fsr[cs]|fzrm|serialize|waitpkg|monitorx|lwp|user_shstk|apx\w*""",
    re.VERBOSE,
)


class HostFacts(Value):
    """The properties of a host that the CPU state of an image depends on."""

    arch: str
    kernel: str
    cpu_features: tuple[str, ...]


class HostDifference(Value):
    """One property in which a host differs from what an image needs."""

    what: str
    image: str
    host: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: the image needs {self.image}, this host has {self.host}"


@functools.cache
def read_host(cpuinfo: Path = Path("/proc/cpuinfo")) -> HostFacts:
    """Read the properties of this host from the kernel."""
    name = os.uname()
    text = files.read_bounded(cpuinfo, _MAX_CPUINFO_BYTES).decode("utf-8", "replace")
    return HostFacts(arch=name.machine, kernel=name.release, cpu_features=parse_features(text))


def parse_features(cpuinfo: str) -> tuple[str, ...]:
    """List the features that all CPUs have and that a program can use."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    named = [(name.strip(), set(value.split())) for name, _, value in lines]
    each = [words for name, words in named if name in {"flags", "Features"}]
    x86 = any(name == "flags" for name, _ in named)
    common = set.intersection(*each) if each else set()
    return tuple(sorted(word for word in common if not x86 or _PROGRAMS_SEE.fullmatch(word)))


def check_host(
    manifest: Manifest,
    host: HostFacts,
    inventory: Inventory,
    runsc: Build,
    flags: Mapping[str, str],
) -> None:
    """Check that the image can be restored on this host.

    Raises:
        HostMismatch: it cannot; the message names every difference, with a remedy for each.
    """
    found = (*differences(manifest, host, inventory, runsc), *_flags(manifest, flags))
    if not found:
        return
    message = f"task {manifest.task} cannot be restored here: " + "; ".join(map(str, found))
    raise HostMismatch(message, remedy="; ".join(dict.fromkeys(one.remedy for one in found)))


def differences(
    manifest: Manifest, host: HostFacts, inventory: Inventory, runsc: Build
) -> tuple[HostDifference, ...]:
    """List the differences between this host and what the image needs."""
    return (
        *_runsc(manifest.runsc, runsc),
        *_cpu(manifest, host),
        *(_gpus(manifest, inventory) if manifest.has_cuda else ()),
    )


def _runsc(image: Build, host: Build) -> Iterator[HostDifference]:
    unversioned = image.version == UNVERSIONED
    if image.version == host.version and not (unversioned and image.digest != host.digest):
        return
    # Builds without a version all have the same name; only the binary itself differs.
    names = (_build(image), _build(host)) if unversioned else (image.version, host.version)
    remedy = f"use runsc {names[0]}: an image can only be read by the runsc that wrote it"
    yield HostDifference(what="runsc", image=names[0], host=names[1], remedy=remedy)


def _flags(manifest: Manifest, flags: Mapping[str, str]) -> Iterator[HostDifference]:
    if not manifest.runsc_flags:
        return
    for one in settings.mismatches(manifest.runsc_flags, flags, manifest.specs):
        yield HostDifference(
            what=f"runsc flag {one.flag} ({one.why})",
            image=one.saved,
            host=one.given,
            remedy=one.remedy,
        )


def _build(build: Build) -> str:
    if build.version != UNVERSIONED:
        return build.version
    return f"{build.version} (BLAKE3 {build.digest[:12]})"


def _cpu(manifest: Manifest, host: HostFacts) -> Iterator[HostDifference]:
    if manifest.arch != host.arch:
        remedy = f"restore on a machine with an {manifest.arch} CPU"
        yield HostDifference(
            what="architecture", image=manifest.arch, host=host.arch, remedy=remedy
        )
        return
    if lacking := sorted(set(manifest.cpu_features) - set(host.cpu_features)):
        shown = ", ".join(lacking[:12]) + (", ..." if len(lacking) > len(lacking[:12]) else "")
        remedy = "restore on a machine whose CPU has all features of the one that made the image"
        yield HostDifference(what="CPU", image=shown, host="none of these", remedy=remedy)


def _gpus(manifest: Manifest, inventory: Inventory) -> Iterator[HostDifference]:
    if manifest.driver and manifest.driver != inventory.driver:
        yield HostDifference(
            what="NVIDIA driver",
            image=manifest.driver,
            host=inventory.driver or "none",
            remedy=f"install NVIDIA driver {manifest.driver}: GPU state requires the same driver",
        )
    have = Counter(gpu.model for gpu in inventory.gpus)
    for model, count in sorted(Counter(gpu.model for gpu in manifest.gpus).items()):
        if have[model] < count:
            yield HostDifference(
                what="GPUs",
                image=f"{count} x {model}",
                host=f"{have[model]} of them",
                remedy=f"restore on a machine with {count} x {model}",
            )
