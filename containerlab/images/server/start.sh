#!/bin/bash
# Entrypoint of the server image: the host's bridge on an LACP bond, reachable from the fabric before any agent runs.
#   MAC         of the bridge and of the bond's LACP system
#   ADDRESSES   of the host, on the bridge. IPv6 ones are /128: neighbours are behind the gateway, nobody proxies ND
#   GATEWAYS    one per family
set -euo pipefail
. /srv/node.sh

wait_for_interfaces etha ethb
for member in etha ethb; do switch_port $member; done

/srv/daemon.sh ovsdb-server
/srv/daemon.sh ovs-vswitchd
# Standalone: a plain learning switch until the agent takes the bridge over by making it secure, which empties it.
ovs-vsctl --timeout=30 add-br br0 \
    -- set bridge br0 datapath_type=netdev fail_mode=standalone \
    "other_config:hwaddr=\"$MAC\"" other_config:disable-in-band=true \
    -- add-bond br0 bond0 etha ethb bond_mode=balance-tcp lacp=active other_config:lacp-time=fast \
    "other_config:lacp-system-id=\"$MAC\"" other_config:bond-rebalance-interval=2000 \
    -- set interface etha ofport_request=1 other_config:lacp-port-id=1 \
    -- set interface ethb ofport_request=2 other_config:lacp-port-id=2
# Both ToRs must learn the host: its ARP and neighbour messages leave by both members, not by the hash's choice.
cat >/run/standalone.flows <<FLOWS
priority=400,in_port=LOCAL,arp actions=output:1,output:2
priority=400,in_port=LOCAL,icmp6,icmp_type=135 actions=output:1,output:2
priority=400,in_port=LOCAL,icmp6,icmp_type=136 actions=output:1,output:2
FLOWS
ovs-ofctl add-flows br0 /run/standalone.flows

host_on br0
stay
