"""Prometheus metrics of the sidecar; loaded only where config.toml has an address for them."""
