"""Which leased addresses wait for the next pod of a name, and which pods wait for such an address. Pure.

An address that a sticky pod uses is noted on its object with the pod's namespace and name. When the pod ends, the
address stays with its server, and no other pod gets it, until a pod of that name comes back or it has waited for long
enough. A pod that comes back elsewhere in the rack has its server ask for the address; it waits for some time only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ipam.model import Holdings, IPAddress, Pod
from routed.kube.addresses import Lease, pod_key

KEPT_S = 24 * 3600.0
"""How long an address waits; an agent that restarts begins anew."""


@dataclass(frozen=True, slots=True)
class _Longing:
    """A pod that wants addresses back."""

    addresses: tuple[IPAddress, ...]
    until: float


class Sticky:
    """What one server knows of it. ``now`` is any clock's that only goes forward."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s`` is how long a pod waits for an address that is elsewhere."""
        self._patience_s = patience_s
        self._names: dict[IPAddress, str] = {}
        """Of our addresses: whom they are kept for, whether that one is there or not."""
        self._idle_since: dict[IPAddress, float] = {}
        self._adopted: dict[IPAddress, str] = {}
        """The object whose note was taken over already: afterwards we know better."""
        self._longings: dict[str, _Longing] = {}

    def adopt(self, mine: Mapping[IPAddress, Lease], now: float) -> None:
        """Take over what the objects of our leases said when we first saw them."""
        for address in self._names.keys() - mine.keys():
            self._forget(address)
        self._adopted = {address: uid for address, uid in self._adopted.items() if address in mine}
        for address, lease in mine.items():
            if lease.uid and self._adopted.get(address) != lease.uid:
                self._adopted[address] = lease.uid
                if lease.sticky and address not in self._names:
                    self._names[address] = lease.sticky
                    self._idle_since[address] = now

    def review(
        self, held: Holdings, others: Iterable[Lease | None], is_scarce: Callable[[int], bool], now: float
    ) -> None:
        """Compare with what pods use; forget what has waited for too long or in vain, or what somebody needs more."""
        present = {lease.sticky for lease in others if lease and lease.pod and lease.sticky}
        for address, pod in held.used.items():
            self._forget(address)
            if address in held.sticky:
                self._names[address] = pod_key(pod)
                present.add(pod_key(pod))
        for address in self._names.keys() - held.used.keys():
            since = self._idle_since.setdefault(address, now)
            if self._names[address] in present or now - since > KEPT_S or is_scarce(address.version):
                self._forget(address)
        self._longings = {name: one for name, one in self._longings.items() if now < one.until + self._patience_s}

    def recall(self, pod: Pod, others: Iterable[Lease | None], now: float) -> tuple[tuple[IPAddress, ...], bool]:
        """Return what the last pod of this name had, and whether this one has waited for it long enough."""
        name = pod_key(pod)
        if name not in self._longings:
            found = {lease.address.version: lease.address for lease in others if lease and lease.sticky == name}
            found |= {address.version: address for address, whose in self._names.items() if whose == name}
            if not found:
                return (), False
            self._longings[name] = _Longing(tuple(found[version] for version in sorted(found)), now + self._patience_s)
        longing = self._longings[name]
        return longing.addresses, now >= longing.until

    def served(self, pod: Pod, sticky: Iterable[IPAddress] = ()) -> None:
        """Take note that a pod has addresses, these or others, and which of them its successor wants to have."""
        name = pod_key(pod)
        self._longings.pop(name, None)
        for address in sticky:
            self._names[address] = name
            self._idle_since.pop(address, None)

    def name_of(self, address: IPAddress) -> str:
        """Return whom an address of ours is kept for; empty for nobody."""
        return self._names.get(address, "")

    def waiting(self) -> frozenset[IPAddress]:
        """Return our addresses that wait, and that no pod gets which does not ask for them."""
        return frozenset(self._idle_since)

    def _forget(self, address: IPAddress) -> None:
        self._names.pop(address, None)
        self._idle_since.pop(address, None)
