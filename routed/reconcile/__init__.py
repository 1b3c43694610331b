"""A reconcile loop that knows nothing of networks: planes, keys, drift, retries."""
