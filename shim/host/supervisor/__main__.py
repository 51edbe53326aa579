"""`python -I -m shim.host.supervisor SOCKET READY_FD`: run as the supervisor."""

from shim.host.supervisor.server import main

main()
