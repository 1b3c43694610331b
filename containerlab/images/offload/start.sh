#!/bin/bash
# Entrypoint of the server image for a kernel with openvswitch and bonding: the same host as in images/server, with the
# kernel's datapath and offload to TC, and the kernel's 802.3ad bond as ONE port of the bridge.
#   MAC         of the bridge and of the bond
#   ADDRESSES   of the host, on the bridge. IPv6 ones are /128: neighbours are behind the gateway, nobody proxies ND
#   GATEWAYS    one per family
set -euo pipefail
. /srv/node.sh

bond_members
echo 1 >/proc/sys/net/ipv6/conf/bond0/disable_ipv6
ip link set bond0 up

export DATAPATH=kernel
/srv/daemon.sh ovsdb-server
ovs-vsctl --no-wait set Open_vSwitch . other_config:hw-offload=true
/srv/daemon.sh ovs-vswitchd
# Standalone: a plain learning switch until the agent takes the bridge over by making it secure, which empties it.
ovs-vsctl --timeout=30 add-br br0 \
    -- set bridge br0 datapath_type=system fail_mode=standalone \
    "other_config:hwaddr=\"$MAC\"" other_config:disable-in-band=true \
    -- add-port br0 bond0 -- set interface bond0 ofport_request=1

host_on br0
stay
