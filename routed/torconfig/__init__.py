"""The ToR side of a rack as text for a switch: a plan without a vendor, and a vendor's words for it."""
