"""The process supervisor: a small process that is the parent of every process the sidecar starts.

It outlives the sidecar. A restarted sidecar connects to the same supervisor, reads the exits of
processes that ended meanwhile, and fetches the descriptors that it stored there.

When the supervisor itself is killed, the sidecar starts a new one at once. The descriptors that it
held are lost, and on an older kernel the exit statuses of its children. The processes keep running;
the sidecar watches them by pidfd and reports when one exits, with its status where the kernel
provides it: always since Linux 6.15, before that only until the process's new parent has reaped it.
Otherwise the status is 255, unknown.

The server side (`server`, `exits`, `spawn`, `fd_store`, `wire`) is stdlib only and single-threaded.
`connection` and `client` are the asyncio side, `starter` starts a supervisor, and `local` does the
supervisor's work inside a shim. Both create children only through `spawn`.
"""
