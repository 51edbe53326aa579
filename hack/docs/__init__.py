"""Builds the documents as a site: `make docs`."""
