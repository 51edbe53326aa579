"""A page that shows what a sidecar knows; loaded only where it is served."""
