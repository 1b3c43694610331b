"""A pod ends and another server of the rack uses its address: does the traffic follow?

Shares of the pools do not overlap, so an operator has to move a range from one server to the other in the rack file;
the scene does that on the other server beforehand. Losses count from the new pod's ADD on: before it, nobody has the
address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fabric import eventually
from tests.lab.matrix import deeds
from tests.lab.matrix.model import Budget, Control, Directions, Event, Step
from tests.lab.matrix.site import Site
from tests.servers import Pod

OWNS = {
    "s11": 'owns: [10.101.0.0/24, "fd00:101::1:0/112"]',
    "s12": 'owns: [10.101.1.0/24, "fd00:101::2:0/112"]',
}
FOLLOWS = Budget(within_s=0.5)
CABLES = ("r1a:s11", "r1b:s11")


@contextmanager
def moved_range(site: Site) -> Iterator[Directions]:
    """Start the pod whose address will move, and let the other server own that address from now on."""
    [old] = site.tested.add(1)
    flows = site.directions([old])
    share = f'owns: [{old.address(4)}/32, "{old.address(6)}/128"]'
    try:
        with site.neighbour.configured({OWNS["s12"]: share, OWNS["s11"]: OWNS["s12"]}):
            yield {name: flows[name] for name in ("in", "rack_in", "bystander")}
            site.neighbour.clean_up(keep={pod.id for pod in site.pods["s12"]})
    finally:
        deeds.restore(*CABLES)(site)
        if not site.tested.agent.alive():
            site.tested.start()
        site.tested.clean_up(keep={pod.id for pod in site.pods["s11"]})


def _old(site: Site) -> Pod:
    [old] = [pod for pod in site.tested.pods.values() if pod not in site.pods["s11"]]
    return old


def _reuse(site: Site, address: str) -> None:
    """Start a pod on the other server, which gets the address, and let it take the packets."""
    traffic = site.traffic
    if traffic is None:
        raise AssertionError("no traffic runs")
    traffic.probe.mark()
    [new] = site.neighbour.add(1)
    if new.address(4) != address:
        raise AssertionError(f"the new pod has {new.address(4)}, not {address}")
    for version in (4, 6):
        traffic.probe.listen(new.place, version)


def clean(site: Site) -> None:
    """End the pod; reuse its address at once."""
    old = _old(site)
    site.tested.delete([old])
    _reuse(site, old.address(4))


def power_off(site: Site) -> None:
    """Switch the old server off; reuse the address at once."""
    old = _old(site)
    deeds.cut(*CABLES)(site)
    _crash(site, old)
    _reuse(site, old.address(4))


def crashed(site: Site) -> None:
    """Kill the old server's agent and ExaBGP for good, the pod too; reuse the address at once."""
    old = _old(site)
    _crash(site, old)
    _reuse(site, old.address(4))


def crashed_and_rested(site: Site) -> None:
    """The same, but the address rests until the ToRs have forgotten the old server's routes, as a cool-down sees to."""
    old = _old(site)
    _crash(site, old)
    for tor in site.tested.tors:
        eventually(lambda tor=tor: not site.tested.announced(tor), f"{tor} forgetting", 60)
    _reuse(site, old.address(4))


def _crash(site: Site, old: Pod) -> None:
    site.tested.agent.kill()
    site.tested.agent.kill_speaker()
    # The probe's sockets keep the namespace alive; what the pod had in it goes now, as with a real one.
    site.tested.inside(old, "ip", "link", "delete", "eth0")
    site.tested.remove_netns([old.netns])


EVENTS = (
    Event(
        "reuse-clean",
        "A pod is deleted, and another server of the rack gives its address to a new one at once.",
        (Step("address reused after a clean end", clean, FOLLOWS, limit_s=30, watch_s=5, facts="94 / - / 94 / - / 0"),),
        scene=moved_range,
    ),
    Event(
        "reuse-power-off",
        "A server loses its power, and another one of the rack uses the address of a pod of it at once.",
        (Step("address reused after a power failure", power_off, FOLLOWS, limit_s=60, watch_s=8),),
        scene=moved_range,
    ),
    Event(
        "reuse-crashed",
        "A server's agent crashes for good; the address of a pod of it is used elsewhere after the cool-down.",
        (
            Step(
                "address reused after a crash and the cool-down",
                crashed_and_rested,
                FOLLOWS,
                limit_s=60,
                watch_s=5,
                facts="71 / - / 71 / - / 0 (by MED)",
            ),
        ),
        scene=moved_range,
        controls=(
            Control(
                "without the cool-down",
                moved_range,
                Step(
                    "address reused after a crash, at once",
                    crashed,
                    Budget(),
                    limit_s=10,
                    facts="half of the flows stray",
                ),
                lambda losses: losses["in"].open,
            ),
        ),
    ),
)
