#!/bin/bash
# Entrypoint of a ToR in a kernel with bonding: images/tor in few processes, for a machine that has one slow CPU. The
# kernel's bridge is the switch, an 802.3ad bond of the kernel is the port, FRR routes; nothing watches over them.
#   /etc/frr/frr.conf     routing, addresses and policy
#   GATEWAY_MAC           of the gateway's interface, the same on both ToRs of a rack
#   LACP_SYSTEM_ID        the same on both ToRs too, so that a server bonds across the two
#   LACP_PORT             number of each server's port, different on the two
#   SERVERS               names of the ports; the bond of one is lag-NAME
#   HOSTS                 the servers' addresses
#   VLAN                  of the rack; `bridge vlan add dev lag-NAME vid VLAN` tags it on a port
set -euo pipefail
. /srv/node.sh

ip link add gw address "$GATEWAY_MAC" type bridge vlan_filtering 1 vlan_default_pvid 0
bridge vlan add dev gw vid "$VLAN" pvid untagged self
for server in $SERVERS; do
    lag=lag-$server
    ip link add "$lag" type bond mode 802.3ad miimon 100 lacp_rate fast ad_actor_system "$LACP_SYSTEM_ID"
    # The driver numbers ports as they join and never gives a number again while the bond is.
    for ((number = 1; number < LACP_PORT; number++)); do
        ip link add "spare$number-$server" type dummy
        ip link set "spare$number-$server" master "$lag"
    done
    wait_for_interfaces "$server"
    enslave "$server" "$lag"
    ip link set "$lag" master gw
    bridge vlan add dev "$lag" vid "$VLAN" pvid untagged
    bridge link set dev "$lag" isolated on # servers reach each other through the router alone
    for device in "$lag" "$server"; do
        echo 1 >"/proc/sys/net/ipv6/conf/$device/disable_ipv6"
        ip link set "$device" up
    done
done

# The gateway answers every ARP request, so that all traffic of the rack is routed, and learns servers by theirs.
for setting in proxy_arp=1 proxy_arp_pvlan=1 arp_accept=1 rp_filter=0 send_redirects=0; do
    echo "${setting#*=}" >"/proc/sys/net/ipv4/conf/gw/${setting%=*}"
done
echo 0 >/proc/sys/net/ipv4/neigh/gw/proxy_delay
ip link set gw up
for host in $HOSTS; do # FRR takes pods' routes only by way of such a one (docs/tor-config.md)
    case $host in *:*) length=128 ;; *) length=32 ;; esac
    ip route replace "$host/$length" dev gw proto 200
done

routing_start
stay
