"""What runs inside the sandbox: standard library only, copied in, run by the host's Python."""
