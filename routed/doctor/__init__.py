"""`routed doctor`: looks at this server (`gather`), judges what was seen (`checks`, pure), changes nothing."""
