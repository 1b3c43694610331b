"""SR-IOV NICs: what a server has (`look`, `found`), what it takes to make it ready (`plan`), doing so (`machine`)."""
