"""The fabric of the tests and the demo: containerlab topology, router configurations, network-namespace runner."""
