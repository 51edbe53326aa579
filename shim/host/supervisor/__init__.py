"""The process supervisor: a small process that is the parent of everything we start.

It outlives the sidecar. A sidecar that was killed and started again connects to the same supervisor
and learns how each process ended meanwhile, and gets back the descriptors that it had put there.

When the supervisor itself is killed the sidecar starts another one at once. What is lost then: the
descriptors that it held, and on an older kernel the exit status of what it had started. The
processes go on; the sidecar watches them by pidfd and reports when one exits, with its status as
far as the kernel shows it: always since Linux 6.15, before that only while the process's new parent
has not reaped it. Otherwise it is 255, not known.

Server side (`server`, `exits`, `spawn`, `fd_store`, `wire`) is stdlib only and single-threaded.
`connection` and `client` are the asyncio side, `starter` brings a supervisor up, and `local` is the
supervisor's work inside a shim. `spawn` is the one way in which both make a child.
"""
