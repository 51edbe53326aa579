#!/usr/bin/env python3
"""containerd-shim-cryo-v1 where no C compiler has built the launcher; see hack/build_hook.py."""

from shim.entry.shimbin.main import main

if __name__ == "__main__":
    main()
