"""The command line: reads, prints, decides nothing."""
