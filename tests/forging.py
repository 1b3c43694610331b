"""What a pod could try to send, frame by frame."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from tests.servers import Pod
from tests.system.frames import arp, ethernet, mac, udp

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = ("33:33:00:00:00:01", "ff02::1")
ALL_ROUTERS = ("33:33:00:00:00:02", "ff02::2")
GATEWAY_MAC = "02:00:00:00:01:01"


def icmpv6(source_mac: str, to: tuple[str, str], source: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message with a right checksum, hop limit 255 as neighbour discovery demands."""
    destination_mac, destination = to
    one, other = ip_address(source).packed, ip_address(destination).packed
    message = struct.pack("!BBH", kind, 0, 0) + body
    words = one + other + struct.pack("!II", len(message), 58) + message + bytes(len(message) % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    message = struct.pack("!BBH", kind, 0, ~(total + (total >> 16)) & 0xFFFF) + body
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + one + other
    return ethernet(source_mac, destination_mac, 0x86DD, head + message)


def forgeries(pod: Pod, neighbour: Pod) -> dict[str, bytes]:
    """What a pod could try, by what it would be."""
    own, own6, other, other6 = pod.address(4), pod.address(6), neighbour.address(4), neighbour.address(6)
    gateway = "fd00:101::1"
    target = ip_address(gateway).packed
    link_layer = b"\x02\x01" + mac(pod.mac)
    tag = struct.pack("!HH", 0x8100, 7)
    right = udp(pod.mac, GATEWAY_MAC, own, "10.102.0.77")
    return {
        "a neighbour's IPv4 address": udp(pod.mac, GATEWAY_MAC, other, "10.102.0.77"),
        "an address of the pool that nobody has": udp(pod.mac, GATEWAY_MAC, "10.101.0.250", "10.102.0.77"),
        "the host's IPv4 address": udp(pod.mac, GATEWAY_MAC, "10.1.0.11", "10.102.0.77"),
        "the other rack's address": udp(pod.mac, GATEWAY_MAC, "10.102.0.5", "10.102.0.77"),
        "no address": udp(pod.mac, BROADCAST, "0.0.0.0", "255.255.255.255"),  # noqa: S104 - as DHCP has it
        "a neighbour's IPv6 address": udp(pod.mac, GATEWAY_MAC, other6, "fd00:102::77"),
        "an IPv6 address that nobody has": udp(pod.mac, GATEWAY_MAC, "fd00:101::dead", "fd00:102::77"),
        "a link-local address": udp(pod.mac, GATEWAY_MAC, "fe80::1", "fd00:102::77"),
        "a neighbour's MAC address": udp(neighbour.mac, GATEWAY_MAC, own, "10.102.0.77"),
        "another MAC address, over IPv6": udp("02:11:22:33:44:55", GATEWAY_MAC, own6, "fd00:102::77"),
        "a neighbour's IPv4 address, to that neighbour": udp(pod.mac, neighbour.mac, "10.101.0.250", other),
        "multicast": udp(pod.mac, "01:00:5e:00:00:fb", own, "224.0.0.251"),
        "IPv6 multicast": udp(pod.mac, "33:33:00:00:00:fb", own6, "ff02::fb"),
        "a tag": right[:12] + tag + right[12:],
        "an ARP answer with a neighbour's address": arp(2, pod.mac, other, other),
        "an ARP answer with the gateway's address": arp(2, pod.mac, "10.101.0.1", other),
        "an ARP question with a neighbour's address": arp(1, pod.mac, other, "10.101.0.1"),
        "an ARP question with a neighbour's MAC address": arp(1, neighbour.mac, own, "10.101.0.1"),
        "an ARP question for a neighbour": arp(1, pod.mac, own, other),
        "an ARP question for the host": arp(1, pod.mac, own, "10.1.0.11"),
        "a router solicitation": icmpv6(pod.mac, ALL_ROUTERS, own6, 133, bytes(4)),
        "a router advertisement": icmpv6(
            pod.mac, ALL_NODES, own6, 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + link_layer
        ),
        "a neighbour solicitation": icmpv6(pod.mac, ALL_NODES, own6, 135, bytes(4) + target + link_layer),
        "a neighbour advertisement for the gateway": icmpv6(
            pod.mac, ALL_NODES, own6, 136, struct.pack("!I", 0x20000000) + target + link_layer
        ),
        "a redirect": icmpv6(pod.mac, ALL_NODES, own6, 137, bytes(4) + target + target),
        "LACP": ethernet(pod.mac, "01:80:c2:00:00:02", 0x8809, bytes(46)),
        "a foreign protocol": ethernet(pod.mac, BROADCAST, 0x88B5, bytes(46)),
    }
