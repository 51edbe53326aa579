"""The keeper: a small process of its own that is the parent of everything we start.

It outlives the sidecar. A sidecar that was killed and started again connects to the same keeper and
learns how each process ended meanwhile, and gets back the descriptors that it had put there.

When the keeper itself is killed the sidecar starts another one at once. What is lost then: the
descriptors that it held, and on an older kernel the exit status of what it had started. The
processes go on; the sidecar watches them by pidfd and tells when one ends, with its status as far
as the kernel shows it: always since Linux 6.15, before that only while the process's new parent has
not reaped it. Otherwise it is 255, not known.

Server side (`server`, `exits`, `spawn`, `held`, `wire`) is stdlib only and single-threaded.
`connection` and `client` are the asyncio side, `starter` brings a keeper up, and `local` is the
keeper's work inside a shim. `spawn` is the one way in which both make a child.
"""
