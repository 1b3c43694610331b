#!/bin/bash
# Entrypoint of the spine image: FRR with /etc/frr/frr.conf.
set -euo pipefail
. /srv/node.sh

routing_start
stay
