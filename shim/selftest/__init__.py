"""`cryo selftest`: the core never imports it, and an installation may leave it out."""
