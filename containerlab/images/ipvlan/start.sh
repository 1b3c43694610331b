#!/bin/bash
# Entrypoint of a server without Open vSwitch, for a kernel with bonding and ipvlan: the host's addresses are on the bond.
#   MAC         of the bond
#   ADDRESSES   of the host. IPv6 ones are /128: neighbours are behind the gateway, nobody proxies ND
#   GATEWAYS    one per family
set -euo pipefail
. /srv/node.sh

bond_members
host_on bond0
stay
