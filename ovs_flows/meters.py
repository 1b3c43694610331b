"""Meters: the policers of pods, whose each is, and how fast and how bursty what passes them may be. Pure.

A meter has no cookie in OpenFlow, so its number says whose it is: object n of `ovs_flows.cookies` has meter 2n - 1 for
what goes to its pod and 2n for what comes from it. Flows that use the same meter share its rate.
"""

from __future__ import annotations

from ovs_flows.cookies import BASE_OBJECT, cookie, object_of
from ovs_flows.model import Meter

LAST = 0xFFFF_0000
"""OFPM_MAX; numbers beyond are Open vSwitch's own (OpenFlow 1.4 7.3.4.5)."""
BURST_S = 0.05
"""So much of the rate passes at once after a rest: what a shaper would have let wait."""
LEAST_BURST_KBIT = 2 * 64 * 8
"""128 KiB: TC polices what TCP hands over in one piece, up to 64 KiB, as one packet."""
LONGEST_BURST_S = 200
"""The kernel counts a burst in 64 ns, 32 bits of them: 274 s of its rate."""
MOST_KBPS = 2**32 - 1


def to_pod(number: int, bits_s: int) -> Meter:
    """Return the policer of what goes to the pod of an object, 1 or more, at so many bits a second."""
    return _policer(2 * number - 1, bits_s)


def from_pod(number: int, bits_s: int) -> Meter:
    """Return the policer of what the pod of an object sends."""
    return _policer(2 * number, bits_s)


def owner(meter: int) -> int:
    """Return the cookie of the object that has a meter."""
    return cookie((meter + 1) // 2)


def numbers(key: int) -> tuple[int, ...]:
    """Return the meters that the object with a cookie may have."""
    number = object_of(key) or BASE_OBJECT
    return () if number == BASE_OBJECT else (2 * number - 1, 2 * number)


def _policer(number: int, bits_s: int) -> Meter:
    rate_kbps = min(max(bits_s // 1000, 1), MOST_KBPS)
    burst_kbit = min(max(round(rate_kbps * BURST_S), LEAST_BURST_KBIT), rate_kbps * LONGEST_BURST_S)
    return Meter(number, rate_kbps, burst_kbit)
