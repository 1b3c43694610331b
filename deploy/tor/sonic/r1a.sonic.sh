# r1a: ToR A of rack r1: what is in CONFIG_DB; routing is in r1a.frr.conf.
# Rendered by `routed tor-config` from SONiC's command reference, not run on a switch.
set -eu

# LACP's system is the switch's own MAC in SONiC, so both ToRs get the same one; it counts after the reload at the end.
sonic-db-cli CONFIG_DB hset 'DEVICE_METADATA|localhost' mac 02:00:00:00:01:fe hostname r1a docker_routing_config_mode split

config loopback add Loopback0
config interface ip add Loopback0 10.255.1.1/32
# gateways of the pods, the same on r1b
config loopback add Loopback1
config interface ip add Loopback1 10.101.0.1/32
config interface ip add Loopback1 10.101.1.1/32
config interface ip add Loopback1 fd00:101::1/128

# gateway of the servers, the same on r1b; proxy_arp answers for everybody, and stops ARP from being flooded, so that
# servers do not bridge to each other
config vlan add 10
config interface ip add Vlan10 10.1.0.1/24
config interface ip add Vlan10 fd00:1::1/64
config vlan proxy_arp 10 enabled
# where the release has no static anycast gateway: the switch's own MAC above must then be the gateway's
config static-anycast-gateway mac_address add 02:00:00:00:01:01
config vlan static-anycast-gateway enable 10

# s11
config portchannel add PortChannel11 --fast-rate true
sonic-db-cli CONFIG_DB hset 'PORTCHANNEL|PortChannel11' lacp_key 11
config portchannel member add PortChannel11 Ethernet0
config vlan member add -u 10 PortChannel11
config interface startup Ethernet0

# s12
config portchannel add PortChannel12 --fast-rate true
sonic-db-cli CONFIG_DB hset 'PORTCHANNEL|PortChannel12' lacp_key 12
config portchannel member add PortChannel12 Ethernet4
config vlan member add -u 10 PortChannel12
config interface startup Ethernet4

# sp1
config interface ip add Ethernet48 10.254.1.3/31
config interface ip add Ethernet48 fd00:254:1::3/127
config interface startup Ethernet48

# sp2
config interface ip add Ethernet52 10.254.2.3/31
config interface ip add Ethernet52 fd00:254:2::3/127
config interface startup Ethernet52

# Two things need a daemon beside SONiC, such as containerlab/images/tor/tord.py of the routed repository: host routes made
# of neighbours on Vlan10, and server ports down while there is no default route (up again 5 s after it is back).

config save -y
config reload -y
