"""Reads, compares and edits a bundle's config.json; the GPUs and hooks that it names."""
