"""containerd-shim-cryo-v1: start, delete, -info, the fork server and the serving shim."""
