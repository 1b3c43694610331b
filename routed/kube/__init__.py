"""Racks, leases and nodes on the Kubernetes API: the engine that users already have, no controller of ours."""
