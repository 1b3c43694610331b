"""Address pools of a rack, and the durable ledger of who holds which address on this server."""
