"""Changes of the configuration of containerd and Docker: plans, and how they are carried out."""
