#!/bin/bash
# Entrypoint of a server without Open vSwitch, for a kernel with bonding and ipvlan: the host's addresses are on the bond.
#   MAC         of the bond
#   ADDRESSES   of the host. IPv6 ones are /128: neighbours are behind the gateway, nobody proxies ND
#   GATEWAYS    one per family
set -euo pipefail
. /srv/node.sh

ip link add bond0 address "$MAC" type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4
wait_for_interfaces etha ethb
for member in etha ethb; do
    ip link set "$member" down
    ip link set "$member" master bond0
    echo 1 >"/proc/sys/net/ipv6/conf/$member/disable_ipv6"
    ip link set "$member" up
done

host_on bond0
stay
