"""The programs inside the sandbox: standard library only, copied in, run by the host's Python."""
