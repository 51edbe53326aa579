"""The programs that are started: sidecar, command line, containerd's shim, selftest."""
