"""Racks, leases and nodes on the Kubernetes API: the engine that users already have, instead of a controller of ours."""
