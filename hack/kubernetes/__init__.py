"""Cryoshim on the nodes of a Kubernetes cluster; docs/kubernetes.md is the guide."""
