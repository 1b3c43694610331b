#!/bin/bash
# Entrypoint of the ToR image: a switch (OVS) with the rack's gateway on it, a router (FRR), and the ToR daemon.
#   /etc/frr/frr.conf     routing, addresses and policy
#   /etc/tor/ports.conf   server ports: name, LACP key, hosts
#   GATEWAY_MAC           of the gateway's interface, the same on both ToRs of a rack
#   LACP_SYSTEM_ID        the same on both ToRs too, so that a server bonds across the two
#   LACP_PORT_OFFSET      added to the port's LACP key to make its port number, different on the two
#   UPLINK_DELAY_S        how long a way to the spines must be back before server ports come up
#   ROUTING               daemons that route, in the order of their start; FRR's when it is not set
#   /etc/tor/addresses.conf   addresses per interface, for a daemon that configures none
set -euo pipefail
. /srv/node.sh

bridge=(-- add-br gw -- set bridge gw datapath_type=netdev fail_mode=standalone "other_config:hwaddr=\"$GATEWAY_MAC\"")
while read -r port key hosts; do
    [[ $port == "" || $port == "#"* ]] && continue
    wait_for_interfaces "$port"
    switch_port "$port"
    ip link set "$port" down # the ToR daemon decides
    # protected: server ports never bridge to each other, so that only the ToR itself answers an ARP request
    bridge+=(-- add-port gw "$port" -- set port "$port" lacp=active protected=true
        "other_config:lacp-system-id=\"$LACP_SYSTEM_ID\"" other_config:lacp-time=fast
        -- set interface "$port" "other_config:lacp-port-id=$((key + LACP_PORT_OFFSET))"
        "other_config:lacp-aggregation-key=$key")
done </etc/tor/ports.conf

/srv/daemon.sh ovsdb-server
/srv/daemon.sh ovs-vswitchd
ovs-vsctl --timeout=30 "${bridge[@]}"

# The gateway answers every ARP request, so that all traffic of the rack is routed, and learns servers by theirs.
wait_for_interfaces gw
for setting in proxy_arp=1 proxy_arp_pvlan=1 arp_accept=1 rp_filter=0 send_redirects=0; do
    echo "${setting#*=}" >"/proc/sys/net/ipv4/conf/gw/${setting%=*}"
done
for family in ipv4 ipv6; do # a silent server is noticed within seconds
    for setting in proxy_delay=0 base_reachable_time_ms=20000 delay_first_probe_time=1 retrans_time_ms=300; do
        echo "${setting#*=}" >"/proc/sys/net/$family/neigh/gw/${setting%=*}"
    done
done
ip link set gw up

if [ -e /etc/tor/addresses.conf ]; then
    while read -r interface addresses; do
        [[ $interface == "" || $interface == "#"* ]] && continue
        wait_for_interfaces "$interface"
        for address in $addresses; do ip address replace "$address" dev "$interface"; done
    done </etc/tor/addresses.conf
fi

routing_start
/srv/daemon.sh tord
stay
