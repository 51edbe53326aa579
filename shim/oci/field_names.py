"""Field names of a spec that differ from known ones in case only.

Go, and so runsc, decodes JSON without regard to case: for runsc `Hooks` is `hooks`. Everything here
reads the exact names, so such a field would be used without having been looked at.
"""

from __future__ import annotations

from typing import Any

# Objects whose keys are not field names.
_FREE = frozenset({"annotations", "sysctl", "unified", "rdma", "netDevices"})
_TEXT = """
    access additionalGids allow ambient annotations apparmorProfile architectures args blockIO
    bounding capabilities cgroupsPath class closID commandLine consoleSize containerID cpu
    createContainer createRuntime cwd defaultAction defaultErrnoRet destination device devices
    disableOOMKiller domainname effective enableCMT enableMBM enableMonitoring env
    execCPUAffinity fatal file fileMode final flags freebsd gid gidMappings hard height hooks
    hostID hostname hugepageLimits inheritable initial intelRdt interfacePriority ioPriority
    kernel kernelTCP l3CacheSchema limit linux listenerMetadata listenerPath major maskedPaths
    memBwSchema memory memoryPolicy minor mode mountLabel mounts namespaces netDevices network
    noNewPrivileges nodes ociVersion oomScoreAdj options path period permitted personality
    pids poststart poststop prestart priorities process quota readonly readonlyPaths
    realtimePeriod realtimeRuntime reservation resources rlimits root rootfsPropagation
    schemata scheduler seccomp selinuxLabel shares size soft solaris source startContainer
    swap swappiness sysctl syscalls terminal timeOffsets timeout type uid uidMappings umask
    unified useHierarchy user vm weight width windows zos
"""
_NAMES = frozenset(_TEXT.split())
_FOLDED = {name.casefold(): name for name in _NAMES}


def misspelt(value: Any) -> str:
    """Return the first name that is a field's but for its case; empty if there is none.

    The value is of a bounded depth.
    """
    if isinstance(value, list):
        if value and isinstance(value[0], str):  # runsc decodes no list of texts and objects
            return ""
        return next(filter(None, map(misspelt, value)), "")
    if not isinstance(value, dict):
        return ""
    for name, inner in value.items():
        if name not in _NAMES and name.casefold() in _FOLDED:
            return str(name)
        is_part = isinstance(inner, dict | list) and name not in _FREE
        if is_part and (found := misspelt(inner)):
            return found
    return ""


def correct(name: str) -> str:
    """Return the field's name for one that `misspelt` found."""
    return _FOLDED[name.casefold()]
