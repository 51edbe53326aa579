"""Images on disk: paths, manifest, sealing, verification and its cache."""
