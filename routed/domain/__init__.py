"""What this program is about, as frozen values: no input or output, no clock, no policy but in `intent`."""
