"""`python -m hack.docs` builds the site; see `hack.docs.site`."""

from __future__ import annotations

from hack.docs.site import main

if __name__ == "__main__":
    raise SystemExit(main())
