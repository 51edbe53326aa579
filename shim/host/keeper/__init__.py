"""The keeper: a small process of its own that is the parent of everything we start.

It outlives the sidecar. A sidecar that was killed and started again connects to the same keeper and
learns how each process ended meanwhile, and gets back the descriptors that it had put there.

What is lost when the keeper itself is killed: the descriptors that it held, and the exit status of
each process that ended before a later keeper was asked to wait for it. The processes themselves go
on; a later keeper tells when one ends, and its status as far as the kernel shows it: always since
Linux 6.15, before that only while its new parent has not reaped it. Otherwise it is 255, not known.

Server side (`server`, `exits`, `spawn`, `held`, `wire`) is stdlib only and single-threaded;
`client` is the asyncio side, and `starter` what brings a keeper up.
"""
