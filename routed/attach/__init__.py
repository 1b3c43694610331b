"""How an interface gets into a pod: the wires and links planes, and the only netlink client."""
