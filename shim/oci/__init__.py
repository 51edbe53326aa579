"""Reads, compares and edits a bundle's config.json, including its GPUs and hooks."""
