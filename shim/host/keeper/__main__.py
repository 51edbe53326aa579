"""`python -I -m shim.host.keeper SOCKET READY_FD`: become the keeper."""

from shim.host.keeper.server import main

main()
