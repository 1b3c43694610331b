"""`routed audit`: every pod's host route, from intent to wire, across both ToRs."""
