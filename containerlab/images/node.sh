# Sourced by the start scripts.

# A container that is not privileged has its kernel settings read-only, even those of its own network namespace.
if [ ! -w /proc/sys/net/ipv4/ip_forward ]; then mount -o remount,bind,rw /proc/sys; fi

wait_for_interfaces() { # NAME...: links arrive while the node boots
    local name
    for name; do
        until [ -e "/sys/class/net/$name" ]; do sleep 0.05; done
    done
}

routing_start() {
    # Nodes of one kernel may share a hash seed; then a spine's choice of ToR repeats the ToR's choice of spine.
    local seed=/proc/sys/net/ipv4/fib_multipath_hash_seed
    if [ -w $seed ]; then cksum <<<"$HOSTNAME" | cut -d ' ' -f 1 >$seed; fi
    local daemon
    for daemon in ${ROUTING:-zebra bfdd bgpd}; do /srv/daemon.sh $daemon; done
}

# A veth that belongs to the userspace datapath. OVS cannot complete partial checksums; and the node's own IP stack sees
# the frames too: it must neither answer ARP nor speak IPv6 on them.
switch_port() { # NAME
    ethtool -K "$1" tx off >/dev/null
    echo 1 >"/proc/sys/net/ipv6/conf/$1/disable_ipv6"
    ip link set "$1" arp off
}

enslave() { # MEMBER BOND: a bond takes no member that is up, and whoever plugs the links sets them up at any moment
    until ip link set "$1" down && ip link set "$1" master "$2"; do sleep 0.05; done
}

bond_members() { # etha and ethb become bond0, a bond of the kernel across both ToRs, with $MAC
    local member
    ip link add bond0 address "$MAC" type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4
    wait_for_interfaces etha ethb
    for member in etha ethb; do
        enslave "$member" bond0
        echo 1 >"/proc/sys/net/ipv6/conf/$member/disable_ipv6"
        ip link set "$member" up
    done
}

host_on() { # DEVICE: gets $ADDRESSES, and leads to $GATEWAYS
    local address gateway
    wait_for_interfaces "$1"
    echo 0 >"/proc/sys/net/ipv4/conf/$1/send_redirects"
    ip link set "$1" up
    for address in $ADDRESSES; do ip address replace "$address" dev "$1"; done
    for gateway in $GATEWAYS; do
        ip route replace "$gateway" dev "$1"
        ip route replace default via "$gateway" dev "$1"
    done
}

stay() { # the node lives as long as this script; as PID 1 it also reaps
    trap 'exit 0' TERM
    while true; do
        sleep infinity &
        wait $! || true
    done
}
