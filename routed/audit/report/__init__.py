"""What an audit found, for people and for machines. Decides nothing about routes; observes nothing."""
