#!/bin/bash
# Start one daemon of a node in the background: daemon.sh NAME. Start scripts and fault injections use it alike.
# FRR daemons read their part of /etc/frr/frr.conf; OVS keeps its configuration in /etc/openvswitch/conf.db.
set -euo pipefail

# Sessions and LACP time out within seconds: do not wait behind others' work on a busy machine. The kernel refuses where
# CONFIG_RT_GROUP_SCHED gives this cgroup no real-time budget; then the daemon runs at normal priority.
realtime=()
if chrt -r 2 true 2>/dev/null; then realtime=(chrt -r 2); fi

frr() {
    install -d -o frr -g frr /run/frr /var/log/frr
    echo 'service integrated-vtysh-config' >/etc/frr/vtysh.conf
    "${realtime[@]}" "/usr/lib/frr/$@" -d -A 127.0.0.1
    vtysh -b -d "$1" >/dev/null
}

case $1 in
    zebra)
        # This line must be known before the first route arrives from a bgpd that already runs.
        # (zebra reads a file of its own beside frr.conf only when it is named.)
        grep '^no zebra nexthop' /etc/frr/frr.conf >/etc/frr/zebra.conf
        frr zebra -f /etc/frr/zebra.conf -s 16777216 # a large netlink buffer: bursts of routes must not be lost
        ;;
    bgpd | bfdd) frr "$1" ;;
    bird) # BIRD 2 with /etc/bird/bird.conf: all of routing in one daemon
        install -d /run/bird
        "${realtime[@]}" bird -P /run/bird/bird.pid
        ;;
    gobgpd) # GoBGP with /etc/gobgpd.toml; fibd is its hand in the kernel
        rm -f /run/gobgpd.sock # one that was killed leaves it, and the next would not start
        "${realtime[@]}" gobgpd -f /etc/gobgpd.toml --api-hosts=unix:///run/gobgpd.sock --pprof-disable \
            >>/var/log/gobgpd.log 2>&1 </dev/null &
        echo $! >/run/gobgpd.pid
        ;;
    ovsdb-server)
        install -d /run/openvswitch /var/log/openvswitch
        database=/etc/openvswitch/conf.db
        [ -e $database ] || ovsdb-tool create $database /usr/share/openvswitch/vswitch.ovsschema
        ovsdb-server $database --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file -vconsole:off
        ovs-vsctl --no-wait init -- set Open_vSwitch . "external_ids:hostname=$HOSTNAME" \
            other_config:n-handler-threads=1 other_config:n-revalidator-threads=1
        ;;
    # Without the kernel's openvswitch module, but with DATAPATH=kernel: the userspace datapath works on any host.
    ovs-vswitchd)
        system=(--disable-system)
        if [ "${DATAPATH:-}" = kernel ]; then system=(); fi
        "${realtime[@]}" ovs-vswitchd "${system[@]}" --pidfile --detach --log-file -vconsole:off
        # A server's switch that no agent has taken over yet (server/start.sh) has flows of its own.
        if [ -e /run/standalone.flows ] && [ "$(ovs-vsctl get-fail-mode br0)" = standalone ]; then
            ovs-ofctl add-flows br0 /run/standalone.flows
        fi
        ;;
    tord | fibd)
        "${realtime[@]}" "/srv/tor/$1.py" >>"/var/log/$1.log" 2>&1 </dev/null &
        echo $! >"/run/$1.pid"
        ;;
    *)
        echo "daemon.sh: no daemon called $1" >&2
        exit 2
        ;;
esac
