"""The ToR image."""
